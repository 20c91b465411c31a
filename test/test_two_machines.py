"""Two machines, simulated by connected network namespaces, train as scripts/cluster/train_two_nodes.sh starts them."""
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import SMALL
from survival import check_equal, wait_for

ROOT = Path(__file__).resolve().parent.parent
IP = shutil.which('ip', path=os.pathsep.join((os.environ['PATH'], '/usr/sbin', '/sbin')))
RUN = 'experiment/stage1_x2_bicubic_iso'


def ip(*arguments):
    """What the program `ip` prints. Raises CalledProcessError if it fails."""
    return subprocess.run([IP, *arguments], capture_output=True, text=True, check=True).stdout


class Machine:
    """Machine number `rank`; its only network is the connection to the other one."""

    def __init__(self, rank):
        self.rank, self.name, self.address = rank, f'mrda-{os.getpid()}-{rank}', f'10.0.0.{rank + 1}'
        ip('netns', 'add', self.name)

    def connect(self):
        for interface in 'lo', 'cable':
            ip('-n', self.name, 'link', 'set', interface, 'up')
        ip('-n', self.name, 'address', 'add', f'{self.address}/24', 'dev', 'cable')

    def train(self, folder, library, *flags):
        """Start its part of a small training in its own folder with a copy of the repository."""
        folder = folder / str(self.rank)
        folder.mkdir(parents=True, exist_ok=True)
        for name in 'scripts', 'main.py':
            if not (folder / name).exists():
                (folder / name).symlink_to(ROOT / name)
        own = {'NODE_RANK': str(self.rank), 'MASTER_ADDR': '10.0.0.1', 'GLOO_SOCKET_IFNAME': 'cable',
               'DIR_DATA': str(library), 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'XDG_CACHE_HOME': 'cache'}
        script = folder / 'scripts/cluster/train_two_nodes.sh'
        command = [IP, 'netns', 'exec', self.name, 'sh', script, *SMALL, '--stage', '1']
        with open(folder / 'said', 'a', encoding='utf-8') as said:
            return subprocess.Popen([*command, *flags], stdout=said, stderr=said, env=os.environ | own)

    def kill(self):
        """Kill all its processes."""
        for pid in map(int, ip('netns', 'pids', self.name).split()):
            os.kill(pid, signal.SIGKILL)

    def remove(self):
        self.kill()
        ip('netns', 'del', self.name)


@contextmanager
def two_machines():
    machines = []
    try:
        for rank in 0, 1:
            machines.append(Machine(rank))
        first, second = machines
        ip('link', 'add', 'cable', 'netns', first.name, 'type', 'veth', 'peer', 'name', 'cable', 'netns', second.name)
        for machine in machines:
            machine.connect()
        yield machines
    finally:
        for machine in machines:
            machine.remove()


def why_not():
    """Why two machines cannot be simulated here, or None."""
    if IP is None:
        return 'needs the program ip (iproute2)'
    try:
        with two_machines():
            return None
    except subprocess.CalledProcessError as error:
        return f'cannot make network namespaces (root may): {error.stderr.strip()}'


def said(folder):
    return ''.join(path.read_text() for path in sorted(folder.glob('*/said')))


@pytest.mark.slow
def test_training_resumes_after_a_machine_is_lost(library, tmp_path):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    flags = library, '--test_every', '100', '--epochs_sr', '1', '--print_every', '50', '--save_every_min', '0.002'
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    with two_machines() as machines:
        nodes = [machine.train(whole, *flags) for machine in machines]
        assert [node.wait(240) for node in nodes] == [0, 0], said(whole)

        nodes = [machine.train(parts, *flags) for machine in machines]
        wait_for(lambda: list(parts.glob(f'0/{RUN}/**/state_0_*.pt')), 240)
        machines[1].kill()
        wait_for(lambda: 'error: rank 0 of 2 lost another rank' in said(parts), 60)
        nodes[0].terminate()  # it would wait for the other
        assert all(node.wait(20) for node in nodes)
        assert not list(parts.glob(f'0/{RUN}/**/state_1.pt'))

        nodes = [machine.train(parts, *flags) for machine in machines]
        assert [node.wait(240) for node in nodes] == [0, 0], said(parts)
    assert 'Resuming after epoch 0 and' in said(parts)
    assert not (parts / '1/experiment').exists()  # only machine 0 writes
    check_equal(parts / '0', whole / '0')

"""The first hour on a GPU, rehearsed on a CPU: quick parts, and that one that fails is a line and stops no other."""
import json

import first_gpu
import torch

from benchmark.gpu import PARTS
from benchmark.gpu.part import Report, Setting, layout, own_layout, tf32

REHEARSAL = ['--device', 'cpu', '--quick']


def test_rehearsal(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PARTS, 'student', PARTS['student']._replace(seconds=0.01))
    flags = [word for name in ('student', 'degradations', 'graphs') for word in ('--part', name)]
    assert first_gpu.main([*REHEARSAL, '--out', str(tmp_path), *flags]) == 1
    found = json.loads((tmp_path / 'first_gpu.json').read_text())['parts']
    assert found['student']['status'].startswith('failed: took more than')
    assert found['degradations']['status'] == 'done' and len(found['degradations']['rows']) == 3
    assert found['graphs']['status'].startswith('left out: needs CUDA')
    page = (tmp_path / 'first_gpu.md').read_text()
    assert '| degradations | done |' in page and '| isotropic |' in page and 'ignore the numbers' in page
    assert capsys.readouterr().out.count('…') == 3


def test_a_part_that_fails_keeps_its_rows_and_says_why_in_a_line(tmp_path, monkeypatch):
    def run(setting, report):
        report.add(what='before')
        raise ValueError('a fault\nof two lines')
    monkeypatch.setitem(PARTS, 'student', PARTS['student']._replace(run=run))
    report = Report(tmp_path / 'result.json')
    assert first_gpu.work('student', Setting(torch.device('cpu'), True), report) == 1
    assert json.loads(report.path.read_text()) == {
        'rows': [{'what': 'before'}], 'notes': [], 'failed': ['ValueError: a fault']}


def test_arithmetic_and_layout_are_given_back():
    device, before = torch.device('cpu'), torch.backends.cudnn.allow_tf32
    own = own_layout(device, 'single')
    with layout('contiguous'), tf32(not before):
        assert own_layout(device, 'single') == 'contiguous' and torch.backends.cudnn.allow_tf32 != before
    assert own_layout(device, 'single') == own and torch.backends.cudnn.allow_tf32 == before

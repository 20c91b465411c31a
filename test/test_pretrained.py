"""The initial weights of a stage: files, shipped names, and networks of the other role."""
import pytest
import torch
from conftest import SMALL

from model import zoo
from option import parse
from run.pretrained import initialise
from stages import STAGES
from store.tensors import load_weights, save_weights
from utility import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(number, *flags, model='mrda'):
    """A stage whose networks have their first weights, what they were before, and the log."""
    args = parse([*SMALL, '--stage', str(number), '--model', model, *map(str, flags)])
    stage, log = STAGES[number](args), []
    before = {key: tensor.clone() for key, tensor in stage.trained.state_dict().items()}
    initialise(stage, args, log.append)
    return stage, before, '\n'.join(log)


def write(name, number, model='mrda', **more):
    network = STAGES[number](parse([*SMALL, '--stage', str(number), '--model', model, *more])).trained
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.01)
    save_weights(name, network)
    return network.state_dict()


@pytest.mark.parametrize('model', ['mrda', 'kdsr'])
def test_student_and_teacher_can_start_from_each_others_sr_network(model):
    """The encoder, whose input differs, keeps its initial weights."""
    student, teacher = write('student.pt', 4, model), write('teacher.pt', 3, model)
    meta = []
    if model == 'mrda':
        write('meta.pt', 2)
        meta = ['--pre_train_meta', 'meta.pt']
    for number, flags, given, encoder in (
            (3, ['--pre_train_TA', 'student.pt'], student, 'E.'),
            (4, ['--pre_train_TA', 'teacher.pt'], teacher, 'E_st.'),
            (4, ['--pre_train_TA', 'teacher.pt', '--pre_train_ST', 'teacher.pt'], teacher, 'E_st.')):
        stage, before, log = started(number, *flags, *meta, model=model)
        for key, tensor in stage.trained.state_dict().items():
            assert torch.equal(tensor, before[key] if key.startswith(encoder) else given[key]), key
        assert 'keeps its initial weights' in log


@pytest.mark.parametrize('flags, said', [
    ((4, '--pre_train_TA', 'student.pt'), 'holds a KDSR student .*but a KDSR teacher is needed'),
    ((3, '--pre_train_TA', 'student.pt', '--test_only'), 'but a KDSR teacher is needed'),
    ((4, '--pre_train_ST', 'teacher.pt', '--test_only'), 'but a KDSR student is needed'),
    ((3, '--pre_train_TA', 'student.pt', '--n_blocks', 2), '--n_blocks 1 instead of 2'),
    ((3, '--pre_train_TA', 'nothing'), r'--pre_train_TA nothing: no such file or shipped weights; shipped weights')])
def test_frozen_and_tested_networks_need_weights_of_their_own_role(flags, said):
    write('student.pt', 4, 'kdsr')
    write('teacher.pt', 3, 'kdsr')
    with pytest.raises(UserError, match=said) as error:
        started(*flags, model='kdsr')
    assert '\n' not in str(error.value)


def test_shipped_names_are_accepted(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, 'ZOO', tmp_path / 'zoo')
    weights = write('student.pt', 4)
    zoo.ship('by_name', 'student.pt', {})
    stage, _, log = started(4, '--pre_train_ST', 'by_name', '--test_only')
    assert 'by_name.safetensors.xz' in log
    shipped = load_weights(tmp_path / 'zoo' / 'by_name.safetensors.xz')
    assert all(torch.equal(tensor, shipped[key].float()) for key, tensor in stage.student.state_dict().items())
    assert all((shipped[key] - tensor).norm() <= 0.2 * tensor.norm() for key, tensor in weights.items())
    (zoo.ZOO / 'by_name.safetensors.xz').write_bytes(b'other')
    with pytest.raises(UserError, match='damaged or replaced'):
        started(4, '--pre_train_ST', 'by_name', '--test_only')


def test_wrapped_published_file_starts_a_student():
    weights = write('mine.pt', 4)
    torch.save({'params_ema': weights, 'params': {}}, 'mine.pt')
    stage, _, _ = started(4, '--pre_train_ST', 'mine.pt', '--test_only')
    assert all(torch.equal(tensor, weights[key]) for key, tensor in stage.student.state_dict().items())
    assert load_weights('mine.pt').keys() == weights.keys()

"""Published command lines keep their meaning; stages set their defaults; every error is one line."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import option
from model.presets import MRDA
from run.pretrained import run_names
from run.starts import config_text
from utility import UserError

ROOT = Path(__file__).parent.parent
PUBLISHED = {  # every flag of the published options, with its default
    'n_threads': 4, 'n_GPUs': 2, 'seed': 1, 'pre_train': '.', 'pre_train_meta': '.', 'pre_train_TA': '.',
    'pre_train_ST': '.', 'temperature': 0.15, 'task_iter': 20, 'test_iter': 20, 'meta_batch_size': 8, 'lr_task': 1e-3,
    'data_train': 'DF2K', 'data_test': 'Set5', 'data_range': '1-3450/801-810', 'ext': 'sep', 'scale': 4,
    'patch_size': 36, 'rgb_range': 1, 'n_colors': 3, 'chop': False, 'no_augment': False, 'blur_kernel': 21,
    'blur_type': 'iso_gaussian', 'mode': 'bicubic', 'noise': 0.0, 'sig_min': 0.2, 'sig_max': 4.0, 'sig': 4.0,
    'lambda_min': 0.2, 'lambda_max': 4.0, 'lambda_1': 0.2, 'lambda_2': 4.0, 'theta': 0.0, 'n_feats': 64,
    'precision': 'single', 'self_ensemble': False, 'test_every': 1000, 'epochs_encoder': 100, 'epochs_sr': 500,
    'st_save_epoch': 550, 'batch_size': 32, 'test_only': False, 'lr_encoder': 1e-3, 'lr_sr': 1e-4,
    'lr_decay_encoder': 60, 'lr_decay_sr': 125, 'decay_type': 'step', 'gamma_encoder': 0.1, 'gamma_sr': 0.5,
    'optimizer': 'ADAM', 'momentum': 0.9, 'beta1': 0.9, 'beta2': 0.999, 'epsilon': 1e-8, 'weight_decay': 0,
    'start_epoch': 0, 'loss': '1*L1', 'skip_threshold': 1e6, 'load': '.', 'save_models': False, 'save_results': False,
    'print_every': 200, 'reset': False, 'cpu': False, 'model': 'mrda',
}
META = '''--dir_data='/data/datasets' --model='blindsr' --scale='4' {blur} --n_GPUs=1 --data_test Set5 --n_feats 128
    --patch_size 64 --task_iter 5 --test_iter 5 --meta_batch_size 5 --lr_sr 1e-4 --lr_task 1e-2 --resume 0
    --data_train DF2K '''
ISO = "--blur_type='iso_gaussian' --noise=0.0 --sig_min=0.2 --sig_max=4.0 --sig 2.6"
ANISO = "--blur_type='aniso_gaussian' --noise=25.0 --lambda_min=0.2 --lambda_max=4.0"
STAGE2 = META + '''--epochs_encoder 0 --epochs_sr 600 --st_save_epoch 95 --task_batch_size 16 --test_every 240
    --print_every 40 --lr_decay_sr 150 --pre_train="./experiment/stage1.pt" --save stage2'''
STAGE3 = META + '''--epochs_encoder 0 --epochs_sr 500 --st_save_epoch 480 --batch_size 16 --test_every 1500
    --print_every 300 --lr_decay_sr 125 --pre_train_meta="./experiment/stage2.pt" --save stage3'''
STAGE4 = META + '''--epochs_encoder 100 --epochs_sr 500 --st_save_epoch 480 --batch_size 16 --test_every 800
    --print_every 250 --lr_decay_sr 125 --lr_encoder 1e-4 --pre_train_TA="./experiment/stage3.pt"
    --pre_train_ST="./experiment/stage3.pt" --pre_train_meta="./experiment/stage2.pt" --save stage4'''
TEST = '''--dir_data='/data/datasets' --model='blindsr' --scale='4' --n_GPUs=1 --data_test Set14 --n_feats 128
    --pre_train_ST="./experiment/ST.pt" --save_results False --resume 0 --test_only '''
KDSR = '''--dir_data='/data/datasets' --model kdsr --scale='4' --n_GPUs=4 --data_test Set14 --data_train DF2K
    --patch_size 64 --batch_size 64 '''
KDSR_ANISO = KDSR + ANISO + ' --lambda_1 4.0 --lambda_2 1.5 --theta 120 --epochs_sr 500 --st_save_epoch 495 '
KDSR_ISO = KDSR + "--blur_type='iso_gaussian' --noise=0 --sig_min=0.2 --sig_max=4.0 --sig=3.6 --epochs_encoder 0 "
TAUGHT = ' --lr_encoder 2e-4 --pre_train_TA="a b/model_TA_last.pt" --pre_train_ST="a b/model_TA_last.pt" --resume 0'
LINES = [
    (1, '''--dir_data='/data/datasets' --model='blindsr' --scale='4' --n_GPUs=1 --epochs_encoder 0 --epochs_sr 600
        --data_test Set14 --st_save_epoch 590 --n_feats 128 --batch_size 64 --patch_size 64 --data_train DF2K
        --save stage1''',
     {'model': 'mrda', 'scale': 4, 'n_GPUs': 1, 'epochs_encoder': 0, 'epochs_sr': 600, 'data_test': 'Set14',
      'st_save_epoch': 590, 'n_feats': 128, 'batch_size': 64, 'patch_size': 64, 'run_name': 'stage1'}),
    (2, STAGE2.format(blur=ISO),
     {'noise': 0, 'sig': 2.6, 'epochs_sr': 600, 'st_save_epoch': 95, 'task_iter': 5, 'lr_task': 1e-2, 'test_every': 240,
      'print_every': 40, 'lr_decay_sr': 150, 'pre_train': './experiment/stage1.pt', 'batch_size': 32,
      'retired': ['--task_batch_size'], 'meta_batch_size': 5, 'test_iter': 5, 'resume': 0}),
    (2, STAGE2.format(blur=ANISO), {'blur_type': 'aniso_gaussian', 'noise': 25, 'lambda_min': 0.2, 'lambda_max': 4}),
    (3, STAGE3.format(blur=ISO),
     {'epochs_encoder': 0, 'epochs_sr': 500, 'st_save_epoch': 480, 'batch_size': 16, 'test_every': 1500,
      'print_every': 300, 'lr_decay_sr': 125, 'pre_train_meta': './experiment/stage2.pt', 'save': 'stage3'}),
    (3, STAGE3.format(blur=ANISO), {'blur_type': 'aniso_gaussian', 'noise': 25, 'batch_size': 16}),
    (4, STAGE4.format(blur=ISO),
     {'epochs_encoder': 100, 'lr_encoder': 1e-4, 'test_every': 800, 'print_every': 250, 'run_name': 'stage4',
      'pre_train_TA': './experiment/stage3.pt', 'pre_train_ST': './experiment/stage3.pt'}),
    (4, STAGE4.format(blur=ANISO), {'blur_type': 'aniso_gaussian', 'noise': 25, 'epochs_encoder': 100}),
    (4, TEST + "--blur_type='iso_gaussian' --noise=0.0 --sig_min=0.2 --sig_max=4.0 --sig 3.6 --save ours_iso_36",
     {'test_only': True, 'sig': 3.6, 'data_test': 'Set14', 'save_results': False, 'save': 'ours_iso_36'}),
    (4, TEST + "--blur_type='aniso_gaussian' --noise=10.0 --lambda_1 3.5 --lambda_2 1.5 --theta 20",
     {'test_only': True, 'noise': 10, 'lambda_1': 3.5, 'lambda_2': 1.5, 'theta': 20}),
    (3, KDSR_ANISO + '--epochs_encoder 0', {'model': 'kdsr', 'noise': 25, 'lambda_1': 4, 'theta': 120, 'n_blocks': 53}),
    (4, KDSR_ANISO + '--epochs_encoder 100' + TAUGHT,
     {'epochs_encoder': 100, 'lr_encoder': 2e-4, 'pre_train_TA': 'a b/model_TA_last.pt', 'lr_decay_sr': 125}),
    (3, KDSR_ISO + '--epochs_sr 500 --st_save_epoch 495', {'sig': 3.6, 'epochs_sr': 500, 'n_resblocks': 9}),
    (4, KDSR_ISO + '--epochs_sr 600 --lr_decay_sr 150 --st_save_epoch 0' + TAUGHT,
     {'epochs_encoder': 0, 'epochs_sr': 600, 'lr_decay_sr': 150, 'st_save_epoch': 0, 'n_feats': 64}),
    (4, '''--test_only --data_test='Set5+Set14+B100+Urban100+MANGA109' --model kdsr --n_feats 128 --n_blocks 28
        --n_resblocks 5 --save 'KDSRsL_iso_test' --noise 0''',
     {'data_test': 'Set5+Set14+B100+Urban100+MANGA109', 'n_feats': 128, 'n_blocks': 28, 'n_resblocks': 5}),
]
BAD = [  # command line after `--stage 2`, text in its error
    ('--noise 0.1', '25.5'), ('--noise -1', '--noise'), ('--noise 256', '0-255 scale'), ('--noise nan', '--noise'),
    ('--sig_min 3 --sig_max 2', '--sig_max 2'), ('--lambda_min 3 --lambda_max 2', '--lambda_max 2'),
    ('--lambda_1 0', '--lambda_1'), ('--batch_size 7', 'even'), ('--batch_size 0', '--batch_size'),
    ('--blur_kernel 20', 'odd'), ('--patch_size -8', '--patch_size'),
    ('--lr_sr 0', '--lr_sr'), ('--lr_task inf', '--lr_task'), ('--scale 2+3', 'one scale a run'), ('--scale 5', '2, 3'),
    ('--epochs_sr 0', '--epochs_sr'), ('--decay_type sine', 'step_A_B'), ('--decay_type step_0', 'step_A_B'),
    ('--optimizer adam', 'RMSprop'), ('--chop maybe', 'True or False'), ('--test_only 2', 'True or False'),
    ('--n_colors 2', '--n_colors'), ('--rgb_range 2', '255'), ('--resume -2', '--resume'), ('--model edsr', 'kdsr'),
    ('--beta1 1', '--beta1'), ('--theta inf', '-360 to 360'), ('--gamma_sr 2', '--gamma_sr'),
    ('--keep_states 1', '2 or more'), ('--save a/b', 'folder name'), ('--save ..', 'folder name'),
    ('--save=', 'folder name'), ('--model kdsr', 'stages 3, 4, 5 only'), ('--cpu True --device cuda', 'contradict'),
    ('--device tpu', 'mps'), ('--bach_size 4', '--batch_size'), ('--lr 1', '--lr_sr'), ('--n_gpus 1', '--n_GPUs'),
    ('--test_on', '--test_only'), ('--xyzzy', '--help lists'), ('--stage 6', 'all'), ('--scale', 'expected one'),
    ('stray', 'stray'), ('"stray\nlines"', 'stray'), ('"--no\nflag"', 'no such flag'), ('--seed x', 'whole number'),
    ('--stage all --batch_size 7', 'stage 2'),
]


def parse(text):
    return option.parse(shlex.split(text))


@pytest.mark.parametrize(('stage', 'line', 'expected'), LINES)
def test_published_command_lines_keep_their_meaning(stage, line, expected):
    args = parse(f'--stage {stage} {line}')
    assert {name: getattr(args, name) for name in expected} == expected
    assert args.stage == stage and isinstance(args.scale, int)


def test_published_flags_keep_their_defaults():
    parser = option.build_parser()
    assert {name: parser.get_default(name) for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize(('line', 'word'), BAD)
def test_mistake_is_reported_in_one_line(line, word):
    with pytest.raises(UserError) as caught:
        parse(f'--stage 2 {line}')
    assert word in str(caught.value) and '\n' not in str(caught.value) and len(str(caught.value)) < 200


def test_weights_that_a_stage_does_not_use_need_not_exist(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1, '--pre_train_ST', 'none.pt') == 0
    assert '--pre_train_ST: not used by this stage' in capsys.readouterr().out
    assert cli('--stage', 1, '--reset', '--pre_train', 'none.pt') == 2
    assert '--pre_train none.pt: no such file' in capsys.readouterr().err


def test_home_folder_is_expanded_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    paths = [row[0] for row in option.OPTIONS if isinstance(row, tuple) and getattr(row[2], '__name__', '') == 'path']
    assert len(paths) >= 9
    for name in paths:
        for text, path in (('~/a', str(tmp_path / 'a')), ('./~/a', './~/a')):
            assert getattr(option.build_parser(4).parse_args([f'--{name}={text}']), name) == path
    with pytest.raises(UserError, match='~no-such-user/x: no such user'):
        parse('--stage 4 --dir_cache=~no-such-user/x')


def test_blindsr_means_mrda_except_for_published_names_of_kdsr():
    for name in ('plain', 'mrda_vs_KDSR', 'KDSR', 'KDSRsMx4_iso', 'my_KDSRsMx4_iso_stage3'):
        args = parse(f'--stage 3 --model blindsr --n_blocks 3 --n_resblocks 5 --save {name}')
        assert args.model == 'mrda' and args.notes == ['MRDA, stage 3, x4']
    for name in ('KDSRsMx4_iso_stage3', 'KDSRsMx4_anisonoise_stage4', 'KDSRsLx4_iso_stage4', 'KDSRsM_iso_test',
                 'KDSRsL_iso_test', 'KDSRsM_anisonoise_test'):
        args = parse(f'--stage 4 --model blindsr --save {name}')
        assert args.model == 'kdsr' and args.notes[0] == 'KDSR, stage 4, x4' and name in args.notes[1]
        assert parse(f'--stage 4 --model mrda --save {name}').model == 'mrda'


@pytest.mark.parametrize('line', ['--noise 0', '--noise 1', '--noise 255', '--sig 0', '--sig_min 2 --sig_max 2',
                                  '--patch_size 3', '--batch_size 2', '--decay_type step_7', '--n_threads 0'])
def test_limits_themselves_are_accepted(line):
    parse(f'--stage 2 {line}')


@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_stage_sets_defaults_and_flags_override_them(stage):
    args = parse(f'--stage {stage}')
    assert {name: getattr(args, name) for name in MRDA[stage]} == MRDA[stage]
    assert args.save == args.run_name == f'stage{stage}' and args.given == {'stage'}
    for name in ('n_feats', 'batch_size', 'test_every', 'epochs_sr'):
        assert getattr(parse(f'--stage {stage} --{name} 222'), name) == 222


def test_stage_is_required():
    with pytest.raises(UserError, match='1, 2, 3, 4 or all'):
        parse('--scale 4')
    assert parse('--is_stage3').stage == 3 and parse('--is_stage3').retired == []
    assert parse('--stage 4 --is_stage3').stage == 4 and parse('--stage 4 --is_stage3').retired == ['--is_stage3']
    with pytest.raises(UserError, match='stage is missing'):
        parse('--is_stage3 False')


def test_stage_all_gives_each_stage_its_own_options():
    argv = ['--stage', 'all', '--save', 'mine', '--n_feats', '32', '--epochs_encoder', '7']
    assert option.parse(argv).stage == 'all' and option.stages(option.parse(argv)) == (1, 2, 3, 4)
    each = [option.parse(argv, stage) for stage in (1, 2, 3, 4)]
    assert [args.stage for args in each] == [1, 2, 3, 4]
    assert [args.run_name for args in each] == ['mine_stage1', 'mine_stage2', 'mine_stage3', 'mine_stage4']
    assert {args.save for args in each} == {'mine'} and {args.n_feats for args in each} == {32}
    assert [args.batch_size for args in each] == [64, 32, 16, 16]
    assert [args.epochs_encoder for args in each] == [0, 0, 0, 7]
    assert option.parse(['--stage', 'all'], 3).run_name == 'stage3'
    assert option.stages(parse('--stage all --model kdsr')) == (3, 4)


def test_families_have_run_folders_of_their_own():
    assert parse('--stage 4 --model kdsr').run_name == 'kdsr_stage4'
    assert parse('--stage 4 --model kdsr --save mine').run_name == 'mine'
    assert option.parse(['--stage', 'all', '--model', 'kdsr'], 4).run_name == 'kdsr_stage4'
    assert run_names(parse('--stage 4 --model kdsr'), 3) == ['kdsr_stage3']
    assert run_names(parse('--stage 4 --model kdsr --save mine'), 3) == ['mine_stage3', 'mine', 'kdsr_stage3']


@pytest.mark.parametrize(('line', 'names'), [
    ('--stage 3', ['stage2']),
    ('--stage 3 --save foo_stage3', ['foo_stage2', 'stage2']),
    ('--stage 3 --save foo', ['foo_stage2', 'foo', 'stage2']),
    ('--stage 3 --save stage3_b', ['stage3_b_stage2', 'stage3_b', 'stage2']),
    ('--stage 3 --save foo_stage4', ['foo_stage4_stage2', 'foo_stage4', 'stage2']),
])
def test_search_order_for_weights_of_an_earlier_stage(line, names):
    assert run_names(parse(line), 2) == names


def test_booleans_take_a_value_or_none():
    for text in ('--test_only', '--test_only True', '--test_only=true', '--test_only yes', '--test_only 1'):
        assert parse(f'--stage 2 {text} --seed 3').test_only is True
    for text in ('', '--test_only False', '--test_only=no', '--test_only 0'):
        assert parse(f'--stage 2 {text}').test_only is False
    assert parse('--stage 2 --cpu True').device == 'cpu' and parse('--stage 2 --cpu False').device == 'auto'


NOT_ALONE = 'extension', 'kernels', 'kernel_index'  # they need a file or another flag


@pytest.mark.parametrize('name', [name for name in option.NAMES.values() if name not in NOT_ALONE])
def test_dash_and_underscore_are_equivalent(name):
    default = option.build_parser(2).get_default(name)
    value = 2 if name in ('stage', 'kernel_index') else 'a-b_c' if default is None else default
    needed = '--blur_type file ' * name.startswith('kernel')
    one, other = (vars(parse(f'{needed}--stage 4 --{flag}={value}')) for flag in (name, name.replace('_', '-')))
    assert one == other and str(one.get(name, value)) == str(value)
    assert one['given'] - {'blur_type'} == {'stage', 'device' if name == 'cpu' else name} - {'blur_type'}


def test_flags_have_no_abbreviations():
    with pytest.raises(UserError, match='did you mean --test_only'):
        parse('--stage 2 --test_o')
    with pytest.raises(UserError, match='unrecognized'):
        option.build_parser().parse_args(['--test_o'])


@pytest.mark.parametrize('name', option.RETIRED)
@pytest.mark.parametrize('form', ['--{}', '--{} 4', '--{}=x', '--{} True --seed 1'])
def test_retired_flags_are_accepted_in_every_form(name, form):
    args = parse('--stage 2 ' + form.format(name))
    assert args.retired == [f'--{name}'] and not hasattr(args, name) and name not in args.given


def test_all_retired_flags_are_named_together():
    args = parse('--stage 2 --debug --template x --n_resblocks 20')
    assert args.retired == ['--template', '--debug', '--n_resblocks (only --model kdsr has it)']



def test_config_text_is_sorted_and_complete():
    args = parse('--stage 2 --debug')
    lines = config_text(args).splitlines()
    assert lines == sorted(lines) and 'batch_size: 32' in lines
    assert {line.partition(': ')[0] for line in lines} == {'version', *vars(args)} - {'given', 'retired', 'notes'}


def shown_help(line, columns, monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', str(columns))
    with pytest.raises(SystemExit) as end:
        parse(f'{line} --help')
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.isascii() and max(map(len, text.splitlines())) <= columns
    return text


@pytest.mark.parametrize('columns', [80, 100])
def test_help_shows_every_flag_that_has_an_effect(columns, monkeypatch, capsys):
    text = shown_help('', columns, monkeypatch, capsys)
    assert all(re.search(f'^ --{name}( |$)', text, re.M) for name in option.NAMES.values())
    assert not any(f'--{name} ' in text for name in option.RETIRED)


@pytest.mark.parametrize('line', [*(f'--stage {stage}' for stage in (1, 2, 3, 4, 5, 'all')),
                                  *(f'--model kdsr --stage {stage}' for stage in (3, 4, 5))])
def test_help_of_a_stage_fits_three_screens(line, monkeypatch, capsys):
    assert len(shown_help(line, 100, monkeypatch, capsys).splitlines()) <= 3 * 40


def test_help_of_a_stage_shows_its_flags_and_defaults(monkeypatch, capsys):
    text = shown_help('--stage 2', 100, monkeypatch, capsys)
    assert '[240]' in text and '--task_iter N' in text and '--gan_weight' not in text


def test_help_names_every_choice(monkeypatch, capsys):
    text = ' '.join(shown_help('', 100, monkeypatch, capsys).split())
    for name, _, kind, _ in (row for row in option.OPTIONS if isinstance(row, tuple)):
        if isinstance(kind, tuple | dict):
            line = re.search(f' --{name} (.*?)(?: --[a-zA-Z]|$)', text)[1]
            assert all(str(choice) in line for choice in kind), name


def test_flags_left_out_of_the_help_of_a_stage_exist():
    assert set(option.STAGES_OF) <= set(option.NAMES.values())


@pytest.mark.parametrize('line', ['--stage 2 --sig_min 9', '--bach_size 3'])
def test_main_ends_with_status_2_and_no_traceback(line, tmp_path):
    command = [sys.executable, ROOT / 'main.py', *line.split()]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith('error: ') and run.stderr.count('\n') == 1
    assert not list(tmp_path.iterdir())

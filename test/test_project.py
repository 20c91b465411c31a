"""The project's own files: a single version number, licence, citation, workflow."""
import re
from pathlib import Path

import make_report
import pytest
import ship_weights

import main as program
import upscale
from model.zoo import index
from run import session
from store.tensors import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.search(r'^version = "(.+)"$', (ROOT / 'pyproject.toml').read_text(encoding='utf-8'), re.M)[1]


@pytest.mark.parametrize('main', [program.main, upscale.main])
def test_programs_show_the_version(main, capsys):
    with pytest.raises(SystemExit) as end:
        main(['--version'])
    assert not end.value.code and capsys.readouterr().out == f'{VERSION}\n'


def test_no_other_file_states_the_version():
    for path in (*ROOT.glob('*.py'), *ROOT.glob('docs/*.md'), ROOT / 'README.md'):
        assert VERSION not in path.read_text(encoding='utf-8'), path.name
    assert f'\n## {VERSION}\n' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_checkpoint_and_report_record_the_version(cli, monkeypatch, capsys):
    assert cli('--stage', '1') == 0
    run = Path('experiment/stage1_x2_bicubic_iso')
    assert load_checkpoint(run / 'model' / 'state_2.pt')['version'] == VERSION
    assert make_report.main([str(run)]) == 0
    assert f'Version {VERSION}' in (run / 'report.html').read_text(encoding='utf-8')
    capsys.readouterr()
    monkeypatch.setattr(session, 'VERSION', '9.0')
    assert cli('--stage', '1', '--epochs_sr', '3', without=['--epochs_sr']) == 0
    assert f'The checkpoint was written by version {VERSION}; this is 9.0.' in capsys.readouterr().out


def test_workflow_runs_the_commands_of_the_readme():
    page, workflow = ((ROOT / name).read_text(encoding='utf-8') for name in ('README.md', '.github/workflows/test.yml'))
    commands = re.findall(r'^    (sh \S+) ', page.split('## Two commands')[1].split('##')[0], re.M)
    assert commands == re.findall(r'- run: (sh .*)$', workflow, re.M)
    oldest = re.search(r'^requires-python = ">=(.+)"$', (ROOT / 'pyproject.toml').read_text(encoding='utf-8'), re.M)[1]
    assert f"'{oldest}'" in workflow and f'Python {oldest}' in page


def test_citation_matches_the_readme():
    page, citation = ((ROOT / name).read_text(encoding='utf-8') for name in ('README.md', 'CITATION.cff'))
    titles = [' '.join(title.split()) for title in re.findall(r'\btitle += \{(.+?)\}', page, re.S)]
    assert len(titles) == 2 and all(title in citation for title in titles)


@pytest.mark.parametrize('name', sorted(index()))
def test_cards_state_the_terms_of_the_weights(name):
    card = ' '.join((ROOT / 'zoo' / f'{name}.md').read_text(encoding='utf-8').split())
    assert ship_weights.TERMS in card

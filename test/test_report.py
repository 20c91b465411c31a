"""The table of a test is the same in every format: degradations, means, published results, protocol."""
import csv
import io
import json
import math
import re
from statistics import fmean

import pytest

from data import protocol
from data.degradation import AnisoGaussian, bicubic, classic
from report import table
from utility import UserError, derive_seed

LINE = '21x21 kernel, bicubic x1/4; PSNR and SSIM on luma'
TITLES = {'psnr_y': 'PSNR', 'ssim_y': 'SSIM'}


def run(name, scale=4, sets=('Set5',)):
    """A TestRun with made-up scores."""
    made = protocol.degradations(name, classic(AnisoGaussian(3.5, 1.5, 0.35), scale, 10.0))
    scores = {test: [(each, {'psnr_y': 20 + derive_seed(test, i) % 9973 / 1000,
                             'ssim_y': derive_seed(i, test) % 9973 / 1e4})
                     for i, each in enumerate(made)] for test in sets}
    return table.TestRun(name, scale, LINE, scores)


def csv_rows(tested):
    return list(csv.DictReader(io.StringIO(table.table_csv(tested), newline='')))


def markdown_rows(tested):
    lines = [line for line in table.table_markdown(tested).splitlines() if line.startswith('|')]
    cells = [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize('name, scale, rows, means, published', [
    ('single', 2, 1, 1, 0), ('gaussian8', 2, 8, 1, 0), ('gaussian8', 4, 8, 1, 5), ('dasr9', 4, 27, 4, 0),
    ('mrda9', 4, 27, 4, 0)])
def test_every_format_has_every_row(name, scale, rows, means, published):
    tested = run(name, scale, ('Set5', 'Set14'))
    content = json.loads(table.table_json(tested))
    assert [len(content[kind]) for kind in ('degradations', 'means', 'published')] == [rows, means, published]
    assert len(csv_rows(tested)) == len(markdown_rows(tested)) == rows + means + published
    assert sum('mean ' in line for line in table.table_text(tested).splitlines()) == means
    for degradation, _ in tested.sets['Set5']:
        blur, _, noise = str(degradation).rpartition(', noise ')
        assert any(re.match(rf'{blur} +{noise} ', line) for line in table.table_text(tested).splitlines())


def test_formats_agree():
    tested = run('mrda9', 4, ('Set5', 'Set14'))
    content = json.loads(table.table_json(tested))
    for exact, row, rounded in zip(content['degradations'] + content['means'], csv_rows(tested),
                                   markdown_rows(tested), strict=True):
        assert row['blur'] == rounded['blur'] == exact['blur']
        assert row['noise'] == rounded['noise'] == ('all' if exact['noise'] is None else f'{exact["noise"]:g}')
        for heading, scores in exact['scores'].items():
            for column, value in scores.items():
                assert float(row[f'{heading} {column}']) == pytest.approx(value, abs=1e-6)
                assert float(rounded[f'{heading} {TITLES.get(column, column)}']) == pytest.approx(value, abs=0.00501)


def test_means_are_the_means_of_the_rows():
    tested = run('dasr9', 4, protocol.SETS)
    means = json.loads(table.table_json(tested))['means']
    assert [mean['noise'] for mean in means] == [0, 5, 10, None]
    for name, scores in tested.sets.items():
        for mean, part in zip(means, (scores[:9], scores[9:18], scores[18:], scores), strict=True):
            for metric, value in mean['scores'][name].items():
                assert value == pytest.approx(fmean(each[metric] for _, each in part), abs=1e-12)


def test_published_means_are_in_marked_rows():
    tested = run('gaussian8', 4, ('Mine', 'Set14'))
    row = next(row for row in csv_rows(tested) if row['blur'] == 'published: MRDA_S')
    assert (row['Mine psnr_y'], float(row['Set14 psnr_y']), float(row['Set14 ssim_y'])) == ('', 28.42, 0.7671)
    row = next(row for row in markdown_rows(tested) if row['blur'] == 'published: KDSR_S-L')
    assert (row['Mine SSIM'], row['Set14 PSNR'], row['Set14 SSIM']) == ('', '28.68', '0.7867')
    assert re.search(r'^published: DASR +0 +28\.11 0\.7603$', table.table_text(tested), re.MULTILINE)
    assert json.loads(table.table_json(tested))['published'][0]['scores'] == {
        'Mine': {'psnr_y': None, 'ssim_y': None}, 'Set14': {'psnr_y': 22.79, 'ssim_y': 0.6032}}


def test_published_scores_per_degradation_are_in_marked_columns():
    tested = run('mrda9', 4, ('Set14',))
    rows = csv_rows(tested)
    assert [float(row['Set14 published PSNR MRDA_S']) for row in rows[9:12]] == [25.66, 25.81, 25.90]
    assert 'Set14 published PSNR' in table.table_text(tested)
    known = protocol.published('mrda9', 4, 'Set14')
    assert [float(rows[-1][f'Set14 published PSNR {each.method}']) for each in known] == [
        pytest.approx(each.psnr, abs=1e-6) for each in known]


@pytest.mark.parametrize('name, shown', [('gaussian8', True), ('mrda9', True), ('dasr9', False), ('single', False)])
def test_notes_below_the_table(name, shown):
    tested = run(name, 4, ('Set14',))
    for make in (table.table_text, table.table_markdown):
        assert make(tested).rstrip().endswith(f'Protocol: {LINE}')
        assert (protocol.SOURCE in make(tested)) == shown
    assert json.loads(table.table_json(tested))['evaluation'] == LINE
    assert {row['evaluation'] for row in csv_rows(tested)} == {LINE}


@pytest.mark.parametrize('make', [table.table_text, table.table_markdown, table.table_csv, table.table_json])
def test_mrda9_is_marked_as_recovered_in_every_format(make):
    assert 'recovered from the figure' in make(run('mrda9'))


@pytest.mark.parametrize('name', ['gaussian8', 'dasr9', 'mrda9'])
def test_text_fits_a_terminal_and_has_every_column(name):
    tested = run(name, 4, protocol.SETS)
    text = table.table_text(tested)
    *lines, note = text.rstrip('\n').splitlines()
    assert note == f'Protocol: {LINE}' and max(map(len, lines)) <= table.WIDTH and text.isascii()
    assert all(len(re.findall(rf'\b{test}\b(?! published)', text)) == 1 for test in protocol.SETS)
    for scores in tested.sets.values():
        assert all(f' {each["psnr_y"]:.2f} {each["ssim_y"]:.4f}' in text for _, each in scores)


def test_columns_are_aligned():
    lines = table.table_text(run('gaussian8', 4, ('Set5', 'a set with a long name'))).splitlines()
    heading, underline, names, rule, *_ = lines[2:]
    assert names.endswith('SSIM') and len(underline) == len(names) == len(rule)
    assert underline.split()[1] == '-' * len('a set with a long name')
    assert {len(line) for line in lines if line.startswith(('sigma', 'mean'))} == {len(rule)}
    assert underline.rindex(' ') + 1 == heading.index('a set')


def test_extreme_numbers_keep_the_format():
    degradation = bicubic(4)
    for psnr, ssim in ((math.inf, 1.0), (math.nan, math.nan)):
        tested = table.TestRun('single', 4, LINE, {'a|b': [(degradation, {'psnr_y': psnr, 'ssim_y': ssim})]})
        content = json.loads(table.table_json(tested), parse_constant=pytest.fail)
        assert content['means'][0]['scores']['a|b']['psnr_y'] == str(psnr)
        assert csv_rows(tested)[0]['a|b psnr_y'] == markdown_rows(tested)[0][r'a\|b PSNR'] == str(psnr)
        assert f'{psnr} {ssim:.4f}'.replace('nan nan', 'nan') in table.table_text(tested)


def test_sets_with_different_degradations_are_refused():
    tested = run('gaussian8')
    tested.sets['Short'] = tested.sets['Set5'][:7]
    with pytest.raises(ValueError):
        table.table(tested)


def test_files(tmp_path):
    tested = run('mrda9', 4, ('Set5', 'Set14'))
    paths = table.write_tables(tmp_path / 'results', tested)
    assert [path.name for path in paths] == ['protocol_mrda9.csv', 'protocol_mrda9.md', 'protocol_mrda9.json']
    for path, make in zip(paths, (table.table_csv, table.table_markdown, table.table_json), strict=True):
        assert path.read_bytes().decode() == make(tested)
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot write'):
        table.write_tables(tmp_path / 'file', tested)

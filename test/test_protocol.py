"""The protocols equal the published ones in every number; published results are shown where they belong."""
from dataclasses import replace

import cv2
import draw_kernels
import pytest
import torch
from matplotlib.patches import Ellipse

from data import protocol
from data.degradation import AnisoGaussian, IsoGaussian, Pipeline, bicubic, classic
from utility import UserError

DASR9 = [(2, .5, 0), (2, 1, 10), (3.5, 1.5, 30), (3.5, 2, 45), (3.5, 2, 90), (4, 1.5, 120), (4, 2, 135), (4, 3, 165),
         (4, 4, 180)]
MRDA9 = [(4, 1, 0), (3.5, 1.5, 20), (3, 2, 40), (2.5, 2.5, 60), (3, 2, 0), (3.5, 1.5, 20), (4, 1, 40), (3.5, 2.5, 60),
         (4, 4, 0)]
SIGMAS = {3: [1.35, 1.5, 1.65, 1.8, 1.95, 2.1, 2.25, 2.4], 4: [1.8, 2, 2.2, 2.4, 2.6, 2.8, 3, 3.2]}


def values(degradation):
    blur, *_ = (step.to_dict() for step in degradation.steps)
    sigma = blur.get('sigma')
    return [blur.get('lambda_1', sigma), blur.get('lambda_2', sigma), blur.get('theta', 0), degradation.columns()[1]]


def degradations(name, scale):
    return protocol.degradations(name, bicubic(scale))


def test_single_is_the_degradation_of_the_options():
    given = classic(IsoGaussian(1.3, 15), 3, 4.0, 's-fold')
    assert protocol.degradations('single', given) == [given]


def test_kernel_size_and_downsampling_follow_the_options():
    single = classic(AnisoGaussian(3.0, 1.0, 0.2, 15), 4, 4.0, 's-fold')
    for name in 'gaussian8', 'jpeg8', 'dasr9', 'mrda9':
        assert {each.setting for each in protocol.degradations(name, single)} == {'15x15 kernel, s-fold x1/4'}


def test_every_degradation_of_a_protocol_has_a_text_and_a_dict_of_its_own():
    for name, known in protocol.PROTOCOLS.items():
        for scale in known.scales:
            made = degradations(name, scale)
            assert [Pipeline.from_dict(each.to_dict()) for each in made] == made
            assert all(each.scale == scale for each in made)


@pytest.mark.parametrize('scale', [3, 4])
def test_gaussian8(scale):
    made = degradations('gaussian8', scale)
    assert [values(each) for each in made] == [pytest.approx([s, s, 0, 0], abs=1e-6) for s in SIGMAS[scale]]
    assert all(isinstance(each.steps[0], IsoGaussian) for each in made)


def test_gaussian8_at_x2_is_evenly_spaced_from_0_80_to_1_60():
    sigmas = [each.steps[0].sigma for each in degradations('gaussian8', 2)]
    torch.testing.assert_close(torch.tensor(sigmas), torch.linspace(0.8, 1.6, 8))


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_jpeg8_ends_with_jpeg(scale):
    made = degradations('jpeg8', scale)
    assert all([step.name for step in each.steps] == ['iso_gaussian', 'downsample', 'noise', 'jpeg', 'round']
               for each in made)
    assert len({str(each) for each in made}) == 8 and made[0].columns() == (f'sigma {0.3 * scale:.2g}, jpeg 80', 3.0)


@pytest.mark.parametrize('name, kernels, levels', [('dasr9', DASR9, (0, 5, 10)), ('mrda9', MRDA9, (0, 10, 20))])
def test_nine_kernels_at_each_noise_level(name, kernels, levels):
    made = degradations(name, 4)
    expected = [(*numbers, level) for level in levels for numbers in kernels]
    assert len(made) == 27 and [values(each) for each in made] == [pytest.approx(row, abs=1e-4) for row in expected]


@pytest.mark.parametrize('name, scale', [('dasr9', 2), ('dasr9', 3), ('mrda9', 2), ('mrda9', 3), ('gaussian8', 8)])
def test_undefined_scale_is_refused(name, scale):
    with pytest.raises(UserError, match=f'--protocol {name} .*--scale {scale}'):
        degradations(name, scale)


def test_published_gaussian8():
    found = {name: {each.method: each for each in protocol.published('gaussian8', 4, name)} for name in protocol.SETS}
    assert [list(each) for each in found.values()] == [['bicubic', 'DASR', 'MRDA_S', 'KDSR_S-M', 'KDSR_S-L']] * 5
    assert found['Set5']['bicubic'][1:3] == (24.57, 0.7108)
    assert found['Set14']['MRDA_S'][1:3] == (28.42, 0.7671)
    assert found['B100']['DASR'][1:3] == (27.44, 0.7214)
    assert found['Urban100']['KDSR_S-M'][1:3] == (25.96, 0.7760)
    assert found['Manga109']['KDSR_S-L'][1:3] == (30.99, 0.9069)


def test_published_mrda9():
    found = {each.method: each for each in protocol.published('mrda9', 4, 'Set14')}
    assert all(len(each.each) == 27 and each.ssim is None for each in found.values())
    assert found['MRDA_S'].each[:9] == (27.45, 27.85, 28.04, 28.09, 28.01, 27.85, 27.64, 27.63, 26.29)
    assert found['DASR'].each[9:18] == (25.26, 25.57, 25.64, 25.69, 25.62, 25.54, 25.42, 25.20, 24.37)
    assert found['KDSR_S'].each[18:] == (24.72, 24.89, 24.92, 24.89, 24.92, 24.82, 24.70, 24.59, 23.84)
    assert found['DASR'].psnr == pytest.approx(sum(found['DASR'].each) / 27)


def test_no_published_number_was_mistyped():
    totals = {method: (round(sum(psnr for psnr, _ in scores), 2), round(sum(ssim for _, ssim in scores), 4))
              for method, scores in protocol.GAUSSIAN8_X4.items()}
    assert totals == {'bicubic': (112.50, 3.1391), 'DASR': (141.76, 3.9973), 'MRDA_S': (144.36, 4.0619),
                      'KDSR_S-M': (144.54, 4.0720), 'KDSR_S-L': (145.57, 4.0999)}
    assert {method: round(sum(each), 2) for method, each in protocol.MRDA9_SET14_X4.items()} == {
        'DASR': 689.76, 'MRDA_S': 701.42, 'KDSR_S': 703.97}


def test_published_results_are_found_under_any_name_of_a_set():
    expected = protocol.published('gaussian8', 4, 'B100')
    assert all(protocol.published('gaussian8', 4, name) == expected for name in ('BSD100', 'BSDS100', 'b100'))
    assert protocol.published('gaussian8', 4, 'MANGA109') == protocol.published('gaussian8', 4, 'Manga109')


@pytest.mark.parametrize('case', [('gaussian8', 2, 'Set5'), ('gaussian8', 4, 'Mine'), ('mrda9', 4, 'Set5'),
                                  ('dasr9', 4, 'Set14'), ('single', 4, 'Set5')])
def test_no_published_results_for_other_settings(case):
    assert protocol.published(*case) == []


def test_mrda9_is_marked_as_recovered_from_the_figure():
    assert [name for name in protocol.PROTOCOLS if 'recovered from the figure' in protocol.label(name)] == ['mrda9']


@pytest.mark.parametrize('name, scale', [('mrda9', 4), ('dasr9', 4), ('gaussian8', 2)])
def test_kernels_are_drawn_and_printed(name, scale, tmp_path, capsys):
    out = tmp_path / 'folder' / 'kernels.png'
    assert draw_kernels.main(['--protocol', name, '--scale', str(scale), '--out', str(out)]) == 0
    title, *numbers, _ = capsys.readouterr().out.splitlines()
    assert title == f'{protocol.label(name)}, x{scale}'
    kernels = degradations(name, scale)[:8 if name == 'gaussian8' else 9]
    assert numbers == [f'{i}  {each}'.removesuffix(', noise 0') for i, each in enumerate(kernels, 1)]
    assert cv2.imread(str(out)).std() > 30


def test_drawn_ellipse_is_aligned_with_the_kernel(monkeypatch):
    drawn = []
    monkeypatch.setattr(draw_kernels, 'Ellipse', lambda *args, **options: drawn.append((args, options)) or
                        Ellipse(*args, **options))
    blurs = draw_kernels.kernels('dasr9', 4)
    draw_kernels.picture('title', blurs)
    for blur, ((centre, width, height), options) in zip(blurs[:2] + blurs[5:6], drawn[:2] + drawn[5:6], strict=True):
        weights = replace(blur, size=41).kernels()[0]
        offset = torch.arange(41.) - 20
        spread = torch.stack([(weights * offset ** 2).sum(), (weights * offset[:, None] * offset).sum()])
        angle = torch.tensor(options['angle']).deg2rad()
        xx = (width / 2 * angle.cos()) ** 2 + (height / 2 * angle.sin()) ** 2
        xy = ((width / 2) ** 2 - (height / 2) ** 2) * angle.cos() * angle.sin()
        assert centre == (10, 10)
        torch.testing.assert_close(spread.float(), torch.stack([xx, xy]), rtol=0.02, atol=0.02)


def test_drawing_errors_are_one_line(tmp_path, capsys):
    assert draw_kernels.main(['--protocol', 'mrda9', '--scale', '2', '--out', str(tmp_path / 'k.png')]) == 2
    assert capsys.readouterr().err.count('\n') == 1 and not list(tmp_path.iterdir())

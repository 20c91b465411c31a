"""tools/cut_tiles.py: which tiles of which photos it writes."""
import cv2
import numpy as np
import pytest
from skimage import data

from data.images import read_rgb, write_rgb
from tools.cut_tiles import best_tiles, main


@pytest.fixture
def photos(tmp_path):
    """A detailed photo, the same again a little darker, a plain one with a detailed corner, and a damaged file."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    detailed = cv2.resize(data.astronaut(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    write_rgb(folder / 'a.png', detailed)
    write_rgb(folder / 'b.png', (detailed * 0.9).astype(np.uint8))
    plain = np.full_like(data.coffee(), 90)
    plain[:60, :60] = data.coffee()[200:260, 200:260]
    write_rgb(folder / 'c.png', plain)
    (folder / 'd.jpg').write_bytes(b'not an image')
    return folder


def test_detailed_tiles_of_different_photos_are_written(photos, tmp_path, capsys):
    out = tmp_path / 'Tiles'
    assert main([str(photos), '--out', str(out), '--size', '96', '--reduce', '2', '--per_photo', '3']) == 0
    said = capsys.readouterr().out
    assert '3 tiles of 1 of 4 photos' in said and '1 photos were left out' in said and 'd.jpg: damaged' in said
    tiles = sorted((out / 'HR').iterdir())
    assert len(tiles) == 3 and all(tile.name.startswith('photos_a_') for tile in tiles)
    reduced = cv2.resize(read_rgb(photos / 'a.png'), (512, 512), interpolation=cv2.INTER_AREA)
    for tile in tiles:
        top, left = map(int, tile.stem.split('_')[-2:])
        assert np.array_equal(read_rgb(tile), reduced[top:top + 96, left:left + 96])


def test_the_most_detailed_tiles_come_first_and_plain_ones_never():
    image = np.full((128, 192, 3), 128, np.uint8)
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3))
    image[:64, :64], image[64:, 128:] = noise // 4, noise
    found = best_tiles(image, 64)
    assert [(tile.top, tile.left) for tile in found] == [(64, 128), (0, 0)]
    assert found[0].gradient > 3 * found[1].gradient
    assert best_tiles(image[:60], 64) == []


def test_no_tile_is_a_failure_and_a_wrong_folder_an_error(photos, tmp_path, capsys):
    assert main([str(photos / 'c.png'), '--out', str(tmp_path / 'out'), '--size', '96']) == 1
    assert '0 tiles of 0 of 1 photos' in capsys.readouterr().out
    assert main([str(tmp_path / 'missing'), '--out', str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err.count('error: ') == 1


def test_photos_of_one_name_in_two_folders_do_not_replace_each_other(tmp_path):
    for folder, photo in ('first', data.astronaut()), ('second', data.coffee()):
        write_rgb(tmp_path / folder / 'album/1.png', photo)
    folders = [str(tmp_path / folder) for folder in ('first', 'second')]
    assert main([*folders, '--out', str(tmp_path / 'out'), '--size', '96', '--reduce', '1', '--per_photo', '2']) == 0
    assert len(list((tmp_path / 'out/HR').iterdir())) == 4

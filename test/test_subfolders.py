"""Sub-folders of own data sets are searched and logged; those of public ones are not."""
from pathlib import Path

import pytest

from data.dataset import TestSet, find_images
from utility import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(files):
    return [file.name for file in files]


@pytest.mark.parametrize('train', [False, True])
def test_sub_folders_of_own_sets_are_searched(tmp_path, train):
    touch(tmp_path, 'Mine/2.png', 'Mine/a/1.png', 'Mine/a/b c/3.jpg', 'Mine/a/notes.txt', 'Mine/.thumbs/4.png',
          'Mine/@eaDir/5.png', 'Mine/X2/6.png', 'Mine/x4/6.png', 'Mine/LR/7.png', 'Mine/LR_bicubic/X3/8.png',
          'Mine/a/train_LR_bicubic/9.png', 'Mine/XL/10.png', 'Mine/a/lrx4/11.png')
    notes = []
    files = find_images(tmp_path, 'Mine', train, note=notes.append)
    assert [str(file.relative_to(tmp_path / 'Mine')) for file in files] == ['2.png', 'XL/10.png', 'a/1.png',
                                                                          'a/b c/3.jpg']
    note, = notes
    assert f'Mine: 4 images: 1 in {tmp_path}/Mine; 1 in {tmp_path}/Mine/XL; 1 in {tmp_path}/Mine/a; 1 in' in note
    found = note.partition('left out: ')[2].split('; ')
    assert [str(Path(folder).relative_to(tmp_path / 'Mine')) for folder in found] == [
        '.thumbs', '@eaDir', 'LR', 'LR_bicubic', 'X2', 'a/lrx4', 'a/train_LR_bicubic', 'x4']


def test_folder_of_lr_images_can_be_given_explicitly(tmp_path):
    touch(tmp_path, 'X4/1.png', 'X4/a/2.png')
    assert names(find_images(tmp_path, str(tmp_path / 'X4'), True)) == ['1.png', '2.png']


def test_hr_folder_takes_precedence_over_sub_folders(tmp_path):
    touch(tmp_path, 'Mine/HR/1.png', 'Mine/HR/more/2.png', 'Mine/other/3.png')
    assert names(find_images(tmp_path, 'Mine', True)) == ['1.png', '2.png']


def test_sub_folders_of_public_sets_are_not_searched(tmp_path):
    touch(tmp_path, 'Set5/HR/1.png', 'Set5/HR/old/2.png', 'DIV2K/other/3.png')
    assert names(find_images(tmp_path, 'Set5', False)) == ['1.png']
    with pytest.raises(UserError, match='no images'):
        find_images(tmp_path, 'DIV2K', True)


def test_cyclic_links_terminate(tmp_path):
    touch(tmp_path, 'Mine/a/1.png', 'other/2.png')
    (tmp_path / 'Mine' / 'a' / 'up').symlink_to(tmp_path / 'Mine')
    (tmp_path / 'Mine' / 'linked').symlink_to(tmp_path / 'other')
    assert names(find_images(tmp_path, 'Mine', True)) == ['1.png', '2.png']


def test_test_images_with_equal_names_are_kept_apart(tmp_path):
    paths = [tmp_path / name for name in ('a/x/1.png', 'b/x/1.png', 'b/1.png', 'b/1.jpg', '2.png')]
    assert [name for name, _ in TestSet('S', paths, 4).named()] == ['a_x_1.png', 'b_x_1.png', 'b_1.png', '1.jpg', '2']

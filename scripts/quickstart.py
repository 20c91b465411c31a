"""The whole method in miniature: photos from scikit-image, four stages by the product's own command line, a table, a picture.

Everything lands in experiment/: the photos in quickstart_photos/, the runs in quickstart_stage1 … quickstart_stage4,
the table and the picture in quickstart/.
"""
import csv
import sys
import time
from pathlib import Path

import numpy as np
from skimage import data as photos

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import main as program
from checkpoint import run_folder
from data import TestSet
from data.degradation import Degradation, Degrader
from data.images import read_rgb, write_rgb
from evaluation import Evaluator, Source
from option import stage_options
from plots import draw_panel

PHOTOS = Path('experiment/quickstart_photos')
OUT = Path('experiment/quickstart')
TRAIN = ('astronaut', 'rocket', 'retina', 'hubble_deep_field', 'immunohistochemistry', 'stereo_motorcycle',
         'brick', 'grass', 'gravel', 'cell')
HELD_OUT = ('chelsea', 'coffee')
SIGMA = 2.6
COMMON = ['--save', 'quickstart', '--dir_data', str(PHOTOS), '--dir_cache', str(PHOTOS / 'cache'),
          '--data_train', 'Train', '--data_test', 'HeldOut', '--sig', str(SIGMA), '--n_feats', '32', '--n_blocks', '4',
          '--patch_size', '32', '--n_threads', '0', '--print_every', '50']
STAGES = {
    1: ['--epochs_sr', '2', '--test_every', '60', '--batch_size', '8', '--lr_sr', '1e-3'],
}

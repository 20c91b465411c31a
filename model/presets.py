"""The options of the published scripts for each stage of each family; flags on the command line override them."""
from itertools import product

_META = {'n_GPUs': 1, 'n_feats': 128, 'patch_size': 64, 'sig': 2.6, 'epochs_encoder': 0, 'data_test': 'Set5',
         'task_iter': 5, 'test_iter': 5, 'meta_batch_size': 5, 'lr_task': 1e-2}
# Of KDSR-GAN: 400,000 steps, nine patches on each of eight GPUs, constant learning rate.
_GAN = {'loss': '1*L1+1*Perceptual', 'beta2': 0.99, 'ema': 0.999, 'batch_size': 72, 'epochs_sr': 400,
        'test_every': 1000, 'lr_decay_sr': 401, 'n_GPUs': 8}
MRDA = {
    1: {'n_GPUs': 1, 'n_feats': 128, 'patch_size': 64, 'epochs_encoder': 0, 'data_test': 'Set14',
        'batch_size': 64, 'epochs_sr': 600, 'test_every': 1000, 'st_save_epoch': 590},
    2: {**_META, 'batch_size': 32, 'epochs_sr': 600, 'test_every': 240, 'st_save_epoch': 95, 'print_every': 40,
        'lr_decay_sr': 150},
    3: {**_META, 'batch_size': 16, 'epochs_sr': 500, 'test_every': 1500, 'st_save_epoch': 480, 'print_every': 300},
    4: {**_META, 'batch_size': 16, 'epochs_sr': 500, 'test_every': 800, 'st_save_epoch': 480, 'print_every': 250,
        'epochs_encoder': 100, 'lr_encoder': 1e-4},
    5: {**_META, **_GAN},
}
_KDSR = {'n_GPUs': 4, 'n_blocks': 53, 'patch_size': 64, 'sig': 3.6, 'epochs_encoder': 0, 'data_test': 'Set14',
         'batch_size': 64}
KDSR = {3: {**_KDSR, 'st_save_epoch': 495}, 4: {**_KDSR, 'epochs_sr': 600, 'lr_encoder': 2e-4},
        5: {**_KDSR, **_GAN}}
# The public code of KDSR has --model blindsr, as MRDA has: its command lines differ only in these names of runs.
PUBLISHED_KDSR = {f'KDSRs{size}_{blur}_{what}' for size, blur, what in product(
    ('M', 'L', 'Mx4', 'Lx4'), ('iso', 'anisonoise'), ('stage3', 'stage4', 'test'))}

"""The learning rate of every batch: encoder-only epochs, steps, milestones, cosine, linear decay, warm-up; and changes
of the schedule that do not affect past batches."""
from math import cos, pi

import pytest

from optim.schedule import equal_until, learning_rate
from option import parse


def options(line, stage=1):
    return parse(f'--stage {stage} --lr_sr 0.1 --test_every 10 --epochs_sr 20 {line}'.split())


def rates(args, encoder_epochs=0, batch=0):
    return [learning_rate(args, epoch, encoder_epochs, batch) for epoch in range(1, args.epochs_sr + 1)]


def test_step_decay_counts_epochs_from_1():
    args = options('--lr_decay_sr 4 --gamma_sr 0.5')
    assert rates(args) == [0.1] * 3 + [0.05] * 4 + [0.025] * 4 + [0.0125] * 4 + [0.00625] * 4 + [0.003125]
    assert rates(args, batch=9) == rates(args)                         # within an epoch nothing changes


def test_milestones_replace_step_decay():
    args = options('--decay_type step_5_12 --lr_decay_sr 1 --gamma_sr 0.5')
    assert rates(args) == [0.1] * 4 + [0.05] * 7 + [0.025] * 9


def test_encoder_only_epochs_have_their_own_rate_and_are_not_counted():
    line = '--epochs_encoder 6 --lr_encoder 1 --lr_decay_encoder 2 --gamma_encoder 0.5 --lr_decay_sr 4'
    args = options(line, stage=4)
    assert rates(args, 6) == [1, 0.5, 0.5, 0.25, 0.25, 0.125, *rates(args)[:14]]


def test_cosine_decays_per_batch_to_0_at_the_end():
    args = options('--decay_type cosine')
    for epoch, batch in (1, 0), (1, 5), (11, 0), (20, 9):
        assert learning_rate(args, epoch, 0, batch) == pytest.approx(
            0.05 * (1 + cos(pi * (epoch - 1 + batch / 10) / 20)))
    assert learning_rate(args, 1, 0) == 0.1 and learning_rate(args, 11, 0) == pytest.approx(0.05)


def test_linear_is_constant_then_decays_linearly_to_0():
    args = options('--decay_type linear_15')
    assert rates(args, batch=9)[:15] == [0.1] * 15
    falling = [learning_rate(args, epoch, 0, batch) for epoch in range(16, 21) for batch in range(10)]
    assert falling == pytest.approx([0.1 * (50 - step) / 50 for step in range(50)])


def test_warm_up_rises_linearly_over_the_first_batches_of_a_run():
    args = options('--warmup 15')
    assert [learning_rate(args, 1 + step // 10, 0, step % 10) for step in range(30)] == pytest.approx(
        [0.1 * min(1, (step + 1) / 15) for step in range(30)])
    later = options('--warmup 15 --start_epoch 3')
    assert learning_rate(later, 4, 0) == learning_rate(args, 1, 0)


@pytest.mark.parametrize('line', ['--decay_type linear_20', '--decay_type linear_30'])
def test_decay_that_never_begins_is_refused(line):
    with pytest.raises(Exception, match='no epoch is left for the decay'):
        options(line)


@pytest.mark.parametrize('line, done, kept', [
    ('--decay_type linear_5', (5, 0), True), ('--decay_type linear_5', (5, 1), True),
    ('--decay_type linear_5', (5, 2), False), ('--decay_type linear_4', (5, 0), False),
    ('--decay_type cosine', (0, 1), True), ('--decay_type cosine', (0, 2), False),
    ('--lr_sr 0.2', (0, 0), True), ('--lr_sr 0.2', (0, 1), False),
    ('--warmup 3', (0, 1), False), ('--gamma_sr 0.1', (20, 0), True), ('--epochs_sr 30', (9, 0), True)])
def test_changed_schedule_is_accepted_if_past_rates_are_unchanged(line, done, kept):
    old = {name: value for name, value in vars(options('')).items() if name in ('lr_sr', 'decay_type', 'gamma_sr')}
    assert equal_until(old, options(line), 0, *done) == kept

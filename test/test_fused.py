"""model.fused computes what DynamicConv and RDAConv do; here by Triton's interpreter, as there is no GPU."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model import common, rdan


def test_results_and_gradients_are_the_same():
    """In a process of its own, as Triton chooses its interpreter when it is imported."""
    pytest.importorskip('triton', reason='comes with PyTorch for Linux')
    settings = os.environ | {'TRITON_INTERPRET': '1', 'PYTHONPATH': str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, __file__], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('the same') == 9


def test_without_a_compiler_they_are_not_used(monkeypatch):
    """Triton compiles when a kernel is first called, by a C compiler that not every machine has."""
    pytest.importorskip('triton', reason='comes with PyTorch for Linux')
    from model import fused
    cpu = torch.device('cpu')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    for error in RuntimeError('Failed to find C compiler.\nSet CC'), PermissionError(13, 'Permission denied'):
        def failing(*args, error=error):
            raise error
        monkeypatch.setattr(fused, 'dynamic_convolution', failing)
        fused.works.cache_clear()
        with pytest.warns(UserWarning, match=str(error).splitlines()[0].replace('[', '.').replace(']', '.')):
            assert not fused.works(cpu)
        assert not fused.works(cpu)  # without another warning
    monkeypatch.setattr(fused, 'dynamic_convolution', lambda x, kernel, slope: x)
    fused.works.cache_clear()
    assert fused.works(cpu)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (6, 1))
    fused.works.cache_clear()
    assert not fused.works(cpu)
    fused.works.cache_clear()


def interpreted() -> None:
    """Compare with the usual forms, in small strips; prints a line for each comparison."""
    from model import fused
    fused.ROWS, fused.ROW = 4, 32
    torch.manual_seed(0)
    for make in rdan.RDAConv, common.DynamicConv:
        for size in (2, 4, 5, 9), (1, 12, 4, 3), (1, 4, 1, 1):
            for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.02))[:1 + (size[1] == 12)]:
                block, x = make(size[1]), torch.randn(size).to(dtype)
                kernel = torch.randn(size[0] * size[1], 1, 3, 3).to(dtype)
                expected = gradients(block, lambda x, kernel, block=block: block(x, kernel), x.float(), kernel.float())
                weights = [block.conv.weight, block.conv.bias] if make is rdan.RDAConv else []
                found = gradients(block, lambda x, kernel, weights=weights: fused.DynamicConvolution.apply(
                    x, kernel, common.SLOPE, *(weights or (None, None))), x, kernel)
                assert found[0].is_contiguous(memory_format=torch.channels_last) and found[0].dtype == dtype
                for ours, usual in zip(found, expected, strict=True):
                    assert (ours.float() - usual).norm() <= tolerance * usual.norm(), (make, size, dtype)
                print('the same', make.__name__, size, dtype)
    x, kernel = torch.ones(1, 2, 6, 20), torch.ones(2, 1, 3, 3, requires_grad=True)
    fused.DynamicConvolution.apply(x, kernel, common.SLOPE, None, None).sum().backward()
    rows, columns = torch.tensor([5., 6, 5]), torch.tensor([19., 20, 19])  # that each tap reads
    torch.testing.assert_close(kernel.grad, (rows[:, None] * columns).expand(2, 1, 3, 3))
    print('the same by hand')


def gradients(block: nn.Module, function, x: torch.Tensor, kernel: torch.Tensor) -> list[torch.Tensor]:
    """The result and the gradients of inputs and, for RDAConv, weights."""
    inputs = [x.clone().requires_grad_(), kernel.clone().requires_grad_()]
    y = function(*inputs)
    weights = list(block.conv.parameters()) if isinstance(block, rdan.RDAConv) else []
    weighted = (y.float() * torch.linspace(-1, 2, y.numel()).view_as(y)).sum()
    return [y.detach(), *torch.autograd.grad(weighted, [*inputs, *weights])]


if __name__ == '__main__':
    interpreted()

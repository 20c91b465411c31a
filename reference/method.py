"""The method written down in the most straightforward way: what the product is measured against, and must equal.

Every layer runs as the papers write it, in PyTorch's default memory format; adaptation trains a copy; the blur takes
all taps of its kernel. State dicts have the published names, so weights pass from one side to the other. The product
imports nothing from here.
"""
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.1
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def conv(n_in, n_out, stride=1):
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1)


def lrelu():
    return nn.LeakyReLU(SLOPE, inplace=True)


def tail(n_feats, scale):
    layers = []
    for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        layers += [conv(n_feats, n_feats * factor**2), nn.PixelShuffle(factor)]
    return nn.Sequential(nn.Sequential(*layers), conv(n_feats, 3))


class MLN(nn.Module):
    def __init__(self, n_feats=128, scale=4):
        super().__init__()
        self.head = nn.Sequential(conv(3, n_feats), lrelu())
        self.body = nn.Sequential(*[layer for _ in range(6) for layer in (conv(n_feats, n_feats), lrelu())])
        self.tail = tail(n_feats, scale)

    def forward(self, lq, up):
        features = self.body(self.head(lq))    # (B, C, h, w)
        return self.tail(features) + up, features


class MeanShift(nn.Conv2d):
    def __init__(self, sign):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3)[:, :, None, None]
        self.bias.data = sign * torch.tensor(DIV2K_MEAN)
        self.requires_grad_(False)


class DynamicConv(nn.Module):
    def __init__(self, n_feats, mask):
        super().__init__()
        self.kernel = nn.Sequential(nn.Linear(n_feats, n_feats, bias=False), lrelu(),
                                    nn.Linear(n_feats, n_feats * 9, bias=False))
        self.conv = nn.Conv2d(n_feats, 1, 1) if mask else None
        self.relu = lrelu()

    def forward(self, x, z):
        b, c, h, w = x.shape
        kernel = self.kernel(z).view(b * c, 1, 3, 3)
        y = F.conv2d(x.view(1, b * c, h, w), kernel, groups=b * c, padding=1)
        y = self.relu(y.view(b, c, h, w))                           # (B, C, h, w)
        return y * torch.sigmoid(self.conv(x)) + x if self.conv else y


class RDABlock(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.da_conv1, self.da_conv2 = (DynamicConv(n_feats, mask=True) for _ in range(2))
        self.conv1, self.conv2 = conv(n_feats, n_feats), conv(n_feats, n_feats)
        self.relu = lrelu()

    def forward(self, x, z):
        y = self.relu(self.da_conv1(x, z))
        y = self.relu(self.conv1(y))
        y = self.relu(self.da_conv2(y, z))
        return self.conv2(y) + x                                    # (B, C, h, w)


class KDSRBlock(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.da_conv1 = DynamicConv(n_feats, mask=False)
        self.conv1 = conv(n_feats, n_feats)

    def forward(self, x, z):
        return self.conv1(self.da_conv1(x, z)) + x                  # (B, C, h, w)


class Body(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.body = nn.ModuleList(blocks)

    def forward(self, x, z):
        for block in self.body:
            x = block(x, z)
        return x


class SRNetwork(nn.Module):
    def __init__(self, scale, n_feats, blocks, compress=None):
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(+1)
        self.compress = compress or nn.Identity()
        self.head = nn.Sequential(conv(3, n_feats))
        self.body = nn.ModuleList([Body(blocks), conv(n_feats, n_feats)])
        self.tail = tail(n_feats, scale)

    def forward(self, lq, rep):
        z = self.compress(rep)                                      # (B, C)
        x = self.head(self.sub_mean(lq))                            # (B, C, h, w)
        y = self.body[1](self.body[0](x, z)) + x
        return self.add_mean(self.tail(y))                          # (B, 3, sh, sw)


class DEN(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        shapes = ((n_in, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.E = nn.Sequential(*[layer for shape in shapes for layer in (conv(*shape), lrelu())],
                               nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(256, 256), lrelu(), nn.Linear(256, 256))

    def forward(self, x):
        feature = self.mlp(self.E(x).flatten(1))
        return feature, feature                                     # (B, 256) twice


class ResBlock(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.body = nn.Sequential(conv(n_feats, n_feats), lrelu(), conv(n_feats, n_feats))

    def forward(self, x):
        return self.body(x) + x


class KDSREncoder(nn.Module):
    def __init__(self, n_in, c, n_resblocks):
        super().__init__()
        shapes = ((c, 2 * c), (2 * c, 2 * c), (2 * c, 4 * c))
        self.E = nn.Sequential(conv(n_in, c), lrelu(), *[ResBlock(c) for _ in range(n_resblocks)],
                               *[layer for shape in shapes for layer in (conv(*shape), lrelu())],
                               nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(4 * c, 4 * c), lrelu(), nn.Linear(4 * c, 4 * c), lrelu())
        self.compress = nn.Sequential(nn.Linear(4 * c, c), lrelu())

    def forward(self, x):
        feature = self.mlp(self.E(x).flatten(1))
        return self.compress(feature), feature                      # (B, C), (B, 4C)


class BlindSR(nn.Module):
    def __init__(self, encoder, generator, student):
        super().__init__()
        self.encoder_name = 'E_st' if student else 'E'
        self.add_module(self.encoder_name, encoder)
        self.G = generator

    def forward(self, lq, cue):
        rep, feature = getattr(self, self.encoder_name)(cue)
        return self.G(lq, rep), feature


def mrda(scale, n_feats, n_blocks, student):
    compress = nn.Sequential(nn.Linear(256, 64, bias=False), lrelu())
    network = SRNetwork(scale, 64, [RDABlock(64) for _ in range(n_blocks)], compress)
    return BlindSR(DEN(3 if student else n_feats), network, student)


def kdsr(scale, n_feats, n_blocks, n_resblocks, student):
    network = SRNetwork(scale, n_feats, [KDSRBlock(n_feats) for _ in range(n_blocks)])
    return BlindSR(KDSREncoder(3 if student else 3 + 3 * scale**2, n_feats, n_resblocks), network, student)


def adapted(mln, lq, up, hr, rates, freeze_tail=False):
    """A copy of mln after one SGD step on its L1 for each of `rates`; stage 4 freezes the tail."""
    net = copy.deepcopy(mln).requires_grad_(True)
    net.tail.requires_grad_(not freeze_tail)
    for rate in rates:
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=rate)
        optimizer.zero_grad()
        F.l1_loss(net(lq, up)[0], hr).backward()
        optimizer.step()
    return net


def stage1(mln, hr, degrade):
    """One step's gradient, left in .grad of what the stage trains; returns the loss. degrade: hr → lq, up."""
    lq, up = degrade(hr)
    loss = F.l1_loss(mln(lq, up)[0], hr)
    loss.backward()
    return loss.detach()


def stage2(mln, hr, degrade, n_tasks, rates):
    """First-order MAML: the outer gradient is taken at a copy that holds the adapted weights."""
    total, half = 0, len(hr) // 2
    for _ in range(n_tasks):
        lq, up = degrade(hr)
        net = adapted(mln, lq[:half], up[:half], hr[:half], rates)
        net.zero_grad()
        loss = F.l1_loss(net(lq[half:], up[half:])[0], hr[half:]) / n_tasks
        loss.backward()
        for weight, copied in zip(mln.parameters(), net.parameters(), strict=True):
            weight.grad = copied.grad if weight.grad is None else weight.grad + copied.grad
        total += loss.detach()
    return total


def stage3(teacher, cue, hr, degrade):
    """cue: (lq, up, hr) → what the teacher's encoder sees."""
    lq, up = degrade(hr)
    loss = F.l1_loss(teacher(lq, cue(lq, up, hr))[0], hr)
    loss.backward()
    return loss.detach()


def stage4(student, teacher, cue, hr, degrade, encoder_only=False, temperature=0.15, feature_l1=0.1):
    lq, up = degrade(hr)
    with torch.no_grad():
        _, target = teacher(lq, cue(lq, up, hr))
    sr, feature = student(lq, lq)
    loss = F.kl_div(F.log_softmax(feature / temperature, 1), F.softmax(target / temperature, 1),
                    reduction='batchmean') + feature_l1 * F.l1_loss(feature, target)
    if not encoder_only:
        loss = loss + F.l1_loss(sr, hr)
    loss.backward()
    return loss.detach()


def adapted_features(mln, rates, freeze_tail):
    """The cue of MRDA's teacher."""
    def cue(lq, up, hr):
        with torch.enable_grad():
            net = adapted(mln, lq, up, hr, rates, freeze_tail)
        with torch.no_grad():
            return net(lq, up)[1]                                   # (B, C, h, w)
    return cue


def pair_cue(scale):
    """The cue of KDSR's teacher."""
    return lambda lq, up, hr: torch.cat([lq, F.pixel_unshuffle(hr, scale)], 1)


def gaussian(lambda_1, lambda_2, theta, size=21):
    """(1, size, size), sum 1; theta in radians."""
    sigma = torch.tensor([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]], dtype=torch.double)
    sigma = sigma @ torch.diag(torch.tensor([lambda_1**2, lambda_2**2], dtype=torch.double)) @ sigma.T
    axis = torch.arange(size, dtype=torch.double) - (size - 1) / 2
    p = torch.stack(torch.meshgrid(axis, axis, indexing='xy'), -1)  # (size, size, 2): column, row offset
    weights = torch.exp(-0.5 * torch.einsum('yxi,ij,yxj->yx', p, torch.linalg.inv(sigma), p))
    return (weights / weights.sum())[None]


def correlate(image, kernels):
    """(B, C, H, W) with (n, k, k), n = 1 or B, all k² taps, without padding."""
    (b, c, h, w), k = image.shape, kernels.shape[-1]
    weights = kernels.to(image).expand(b, k, k).repeat_interleave(c, 0)[:, None]     # (B·C, 1, k, k)
    return F.conv2d(image.reshape(1, b * c, h, w), weights, groups=b * c).view(b, c, h - k + 1, w - k + 1)


def blur(image, kernels):
    """The same, reflecting at the borders: (B, C, H, W) → (B, C, H, W)."""
    return correlate(F.pad(image, (kernels.shape[-1] // 2,) * 4, mode='reflect'), kernels)


def resize(image, factor):
    """MATLAB's bicubic along both axes: every output pixel gathers its taps; antialiased where it shrinks."""
    stretch = max(1, 1 / factor)
    for dim in (2, 3):
        size = image.shape[dim]
        centre = (torch.arange(round(size * factor), dtype=torch.double) + 0.5) / factor - 0.5
        taps = (centre - 2 * stretch).floor()[:, None] + torch.arange(math.ceil(4 * stretch) + 2)
        x = ((centre[:, None] - taps) / stretch).abs()
        weights = torch.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * (x < 2)
        weights = (weights / weights.sum(1, keepdim=True)).to(image)                 # (out, taps)
        index = taps.long().clamp(0, size - 1).to(image.device)
        gathered = image.transpose(dim, 3)[..., index]                               # (B, C, other, out, taps)
        image = (gathered * weights).sum(-1).transpose(dim, 3)
    return image


def degrade(hr, scale, kernel=None):
    """hr (B, 3, H, W) in [0, 1] → lq (B, 3, H/s, W/s), up (B, 3, H, W), 8-bit."""
    lq = resize(hr if kernel is None else blur(hr, kernel), 1 / scale)
    return tuple((image * 255).round().clamp(0, 255) / 255 for image in (lq, resize(lq, scale)))

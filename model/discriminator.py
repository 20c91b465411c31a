"""The discriminator of KDSR-GAN: a U-Net with spectral normalisation (Real-ESRGAN, ICCVW 2021, section 3.3)."""
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

SLOPE = 0.2  # of every LeakyReLU


class UNetDiscriminator(nn.Module):
    """n_feats: channels at full resolution. 4,376,897 parameters at 64. Keys are those of published files."""

    def __init__(self, n_feats: int = 64, n_colors: int = 3) -> None:
        super().__init__()
        c = n_feats
        self.conv0 = nn.Conv2d(n_colors, c, 3, padding=1)
        for i, (into, out) in enumerate([(c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c)], 1):
            self.add_module(f'conv{i}', spectral_norm(nn.Conv2d(into, out, 4, stride=2, padding=1, bias=False)))
        for i, (into, out) in enumerate([(8 * c, 4 * c), (4 * c, 2 * c), (2 * c, c), (c, c), (c, c)], 4):
            self.add_module(f'conv{i}', spectral_norm(nn.Conv2d(into, out, 3, padding=1, bias=False)))
        self.conv9 = nn.Conv2d(c, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [0, 1] → for each pixel the logit that it is real (B, 1, H, W)."""
        skips = [_activate(self.conv0(image))]                              # (B, c, H, W)
        for conv in self.conv1, self.conv2, self.conv3:
            skips.append(_activate(conv(skips[-1])))                        # (B, 2c, H/2, W/2), …, (B, 8c, H/8, W/8)
        x = skips.pop()
        for conv in self.conv4, self.conv5, self.conv6:
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode='bilinear', align_corners=False)
            x = _activate(conv(x)) + skip                                   # (B, 4c, H/4, W/4), …, (B, c, H, W)
        return self.conv9(_activate(self.conv8(_activate(self.conv7(x)))))


def _activate(x):
    return F.leaky_relu(x, SLOPE, inplace=True)

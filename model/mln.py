"""The meta-learning network of MRDA (TIP 2023, section III): after a few gradient steps on one degradation, its
features represent that degradation."""
from torch import Tensor, nn

from model.common import conv3x3, leaky_relu
from model.tail import Fused, Tail


class MLN(nn.Module):
    """n_feats: width C; scale: 2, 3 or 4; n_colors: 3 for RGB, 1 for luma. 2,073,219 parameters at C = 128, x4.

    Adaptation needs forward(lq, up) only; the optional attributes (see model/adapt.py) save time.
    """
    frozen = ('tail.',)
    features_alone = True

    def __init__(self, n_feats: int = 128, scale: int = 4, n_colors: int = 3) -> None:
        super().__init__()
        self.head = nn.Sequential(conv3x3(n_colors, n_feats), leaky_relu())
        self.body = nn.Sequential(*[layer for _ in range(6) for layer in (conv3x3(n_feats, n_feats), leaky_relu())])
        self.tail = Tail(n_feats, scale, n_colors)

    def forward(self, lq: Tensor, up: Tensor | None = None, fused: Fused | None = None) -> tuple[Tensor | None, Tensor]:
        """lq (B, 3, h, w), its bicubic upsampling up (B, 3, sh, sw) → sr (B, 3, sh, sw), features (B, C, h, w).

        Without `up` only the features are computed, and sr is None. `fused`: the fused tail, if it is frozen.
        """
        features = self.body(self.head(lq))                # (B, C, h, w)
        if up is None:
            return None, features
        return self.tail(features, fused) + up, features   # (B, 3, sh, sw), (B, C, h, w)

    def cached(self) -> dict[str, Fused]:
        """Arguments of forward that depend on the frozen weights alone."""
        return {'fused': self.tail.cached()}

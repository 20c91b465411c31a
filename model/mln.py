"""The meta-learning network of MRDA (TIP 2023, section III): after a few gradient steps on one degradation, its
features represent that degradation."""
from torch import nn

from model.common import conv3x3, leaky_relu
from model.tail import Tail


class MLN(nn.Module):
    """n_feats: width C; scale: 2, 3 or 4. 2,073,219 parameters at C = 128, x4."""

    def __init__(self, n_feats=128, scale=4):
        super().__init__()
        self.head = nn.Sequential(conv3x3(3, n_feats), leaky_relu())
        self.body = nn.Sequential(*[layer for _ in range(6) for layer in (conv3x3(n_feats, n_feats), leaky_relu())])
        self.tail = Tail(n_feats, scale)
        self.weight_names = [name for name, _ in self.named_parameters()]

    def forward(self, lq, up=None, fused=None):
        """lq (B, 3, h, w), its enlargement up (B, 3, sh, sw) → sr (B, 3, sh, sw), features (B, C, h, w).

        Without `up` only the features are computed and sr is None. `fused`: the composed tail, where it is frozen.
        """
        features = self.body(self.head(lq))                # (B, C, h, w)
        if up is None:
            return None, features
        return self.tail(features, fused) + up, features   # (B, 3, sh, sw), (B, C, h, w)

"""Draw the blur kernels of a test protocol with their parameters, and print these.

python tools/maintain/draw_kernels.py --protocol mrda9 [--scale 4] [--out kernels.png]
"""
import io
import sys
from math import degrees
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from data import protocol
from data.degradation import AnisoGaussian, Blur, bicubic
from option import scale
from process.arguments import Parser
from process.command import command_line
from store.files import write_bytes

SIZE = 21  # pixels: side of the kernels in the protocols' definition
COLUMNS = {8: 4, 9: 3}  # kernels per row of the figure, by their number


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog='tools/maintain/draw_kernels.py',
                    description='Draw the blur kernels of a test protocol with their parameters.')
    names = [name for name in protocol.PROTOCOLS if name != 'single']
    parser.add_argument('--protocol', required=True, choices=names, help='test protocol')
    parser.add_argument('--scale', type=scale, default=4, help='scale factor: 2, 3 or 4')
    parser.add_argument('--out', default='kernels.png', help='figure to write')
    args = parser.parse_args(argv)
    blurs = kernels(args.protocol, args.scale)
    title = f'{protocol.label(args.protocol)}, x{args.scale}'
    write_bytes(args.out, picture(title, blurs))
    print(title)
    for number, blur in enumerate(blurs, 1):
        print(f'{number}  {blur}')
    print(f'Standard deviations in pixels of the HR image, theta in degrees; drawn in {args.out}')


def kernels(name: str, scale: int) -> list[Blur]:
    """The blurs of a protocol at its first noise level."""
    degradations = protocol.degradations(name, bicubic(scale, SIZE))
    _, first = degradations[0].columns()
    return [each.find(Blur) for each in degradations if each.columns()[1] == first]


def picture(title: str, blurs: list[Blur]) -> bytes:
    """PNG bytes: every kernel, scaled to its own maximum, with the ellipse of one standard deviation."""
    columns = COLUMNS[len(blurs)]
    rows = len(blurs) // columns
    figure = Figure(figsize=(2.3 * columns, 2.53 * rows + 0.65), layout='constrained')
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel('ellipse: one standard deviation; brightness: each kernel up to its own maximum', fontsize=8,
                     color='0.35')
    for number, (axes, blur) in enumerate(zip(figure.subplots(rows, columns).flat, blurs, strict=True), 1):
        draw(axes, number, blur)
    data = io.BytesIO()
    figure.savefig(data, format='png', dpi=150)
    return data.getvalue()


def draw(axes: Axes, number: int, blur: Blur) -> None:
    """One kernel with its number and its standard deviations above it."""
    axes.imshow(blur.kernels()[0].numpy(), cmap='magma', interpolation='nearest')
    turned = isinstance(blur, AnisoGaussian)
    along, across, theta = (blur.lambda_1, blur.lambda_2, degrees(blur.theta)) if turned else (blur.sigma,) * 2 + (0,)
    axes.add_patch(Ellipse((SIZE // 2, SIZE // 2), 2 * along, 2 * across, angle=theta, fill=False,
                           edgecolor='white', linewidth=0.8))
    axes.set_title(f'{number}:  λ {along:g} / {across:g}   θ {theta:.4g}°' if turned else
                   f'{number}:  σ {along:.4g}', fontsize=9)
    axes.set_axis_off()


if __name__ == '__main__':
    sys.exit(main())

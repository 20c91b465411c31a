"""What people read uses the field's terms: documentation, messages, docstrings, comments, names, scripts.

The table names retired terms, what to write instead, and an example. A justified exception goes into ALLOWED.
"""
import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RETIRED = [  # (regular expression, what to write instead, example)
    (r'go(es|ing|ne)? on\b(?! the 0)|\bwent on', 'resume, continue', 'the run goes on'),
    (r'enlarg', 'super-resolve, upscale, upsample', 'an enlarged photo'),
    (r'elongated', 'anisotropic', 'elongated blurs'),
    (r'round (and \w+ )?(gaussian )?(blur|kernel)', 'isotropic', 'a round Gaussian blur'),
    (r'shr[iua]nk', 'downsample', 'shrinking by four'),
    (r'(the|its|each) (small|large) image\b', 'LR image, HR image', 'pixels of the large image'),
    (r'grey', 'gray; noise level, on the 0-255 scale', '25 grey levels'),
    (r'full (training )?state\b|\bstate files?\b', 'checkpoint', 'the full state of a training'),
    (r'at rest\b|\brest(s|ed|ing)\b', 'frozen; fused and cached', 'while the weights rest: rested'),
    (r'by (itself|themselves)\b', 'automatic, automatically', 'found by itself'),
    (r'(value of white|white (is|being|was)) ', 'data range', 'white being 1'),
    (r'planes\b', 'contiguous (NCHW)', 'saved in planes'),
    (r'(team|leader)s?\b', 'process group, rank, rank 0', 'the leader of the team'),
    (r'raw cop(y|ies)\b', 'cache of decoded images', 'raw copies of images'),
    (r'composed\b', 'fused', 'the composed tail'),
    (r'remember', 'cached, stored', 'its name is remembered'),
    (r'(a|one|each|every|random) draws?\b(?! from)', 'sample; random number generator, seed', 'each draw has a seed'),
    (r'cuts? of the (learning )?rate', 'learning rate decay', 'a cut of the rate'),
    (r'asked for\b|\bwhere none (is|are) (named|given)', 'requested, default, optional', 'as was asked for'),
    (r'(written|writes) (it |them )?down plainly', 'direct implementation', 'the method written down plainly'),
    (r'what was published beside', 'published result, baseline', 'what was published beside ours'),
    (r'what (the|a|an|this|each) [\w ]{1,25}(sees|looks at|has seen)\b', 'input of', 'what the encoder sees'),
    (r'learns? to see\b', 'is distilled, estimates', 'a student learns to see it'),
    (r'memory (runs out|does not suffice)', 'out of memory', 'where memory runs out'),
    (r'without a word\b|\baloud\b', 'silently; with a warning', 'ends without a word'),
]
ANY = re.compile(rf'\b(?:{"|".join(pattern for pattern, *_ in RETIRED)})', re.IGNORECASE)
ALLOWED = {  # (file, text around the term): why
}
FILES = sorted(path for path in ROOT.rglob('*') if path.suffix in ('.py', '.md', '.sh', '.html', '.cff')
               and not path.relative_to(ROOT).parts[0].startswith(('.', 'experiment', 'shared', 'datasets'))
               and path != Path(__file__).resolve())


def flat(text):
    """`text` in one line, without what joins comments of several lines and parts of a string."""
    return ' '.join(re.sub(r'''\n *#|['"]\s+f?['"]''', ' ', text).split())


def readable(path, source):
    """(line, text) of what people read in a file: of Python the strings, comments and names, else all."""
    if path.suffix != '.py':
        for match in re.finditer(r'(.+\n?)+', source):  # paragraphs
            yield source.count('\n', 0, match.start()) + 1, match[0]
        return
    comments = {}  # {line: text}, several lines in one
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            comments[line] = comments.pop(line - 1, '') + ' ' + token.string.lstrip('# ')
    yield from comments.items()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', node.name)
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def retired(path):
    """'file:line: text: what to write instead' of each retired term in a file."""
    source = path.read_text(encoding='utf-8')
    if not ANY.search(flat(source).replace('_', ' ')):  # much faster than to parse
        return
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    for line, text in readable(path, source):
        text = flat(text).replace('_', ' ')
        for match in ANY.finditer(text):
            around = text[max(0, match.start() - 30):match.end() + 30]
            instead = next(each for pattern, each, _ in RETIRED if re.match(pattern, match[0], re.IGNORECASE))
            if not any(name == file and part in around for file, part in ALLOWED):
                yield f'{name}:{line}: "{around}": write {instead}'


def test_texts_use_the_terms_of_the_field():
    found = [each for path in FILES for each in retired(path)]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('example', [example for *_, example in RETIRED])
def test_retired_terms_are_found_in_every_kind_of_text(example, tmp_path):
    name = re.sub(r'\W+', '_', example)
    sources = {'page.md': example, 'script.sh': f'# {example}\n', 'string.py': f'text = "{example}"\n',
               'part.py': f'text = f"{{1}} {example}"\n', 'comment.py': f'x = 1  # {example}\n',
               'docstring.py': f'def f():\n    """{example}"""\n', 'name.py': f'def test_{name}():\n    pass\n'}
    for file, source in sources.items():
        (tmp_path / file).write_text(source)
        assert list(retired(tmp_path / file)), f'not found in {file}'

"Build README.md from nbs/index.ipynb, with the outputs saved there: python tools/readme.py [FILE]"
import re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
nb = nbformat.read(root/'nbs/index.ipynb', as_version=4)
nb.cells = [c for c in nb.cells if not re.search(r'^#\s*\|\s*hide\b|^::: .*content-visible', c.source, re.M)]      # what only the site can show
for c in nb.cells: c.source = re.sub(r'^(#\s*\||:::).*\n?', '', c.source, flags=re.M)
nb.metadata['language_info'] = dict(name='python')   # what nbconvert marks code blocks with
body,resources = MarkdownExporter().from_notebook_node(nb)
if resources['outputs']: sys.exit(f"index.ipynb holds pictures as outputs, {list(resources['outputs'])}; save them under nbs/images and show them by a markdown link")
body = re.sub(r'\]\(images/', '](https://raw.githubusercontent.com/psm-fastai/psm_fastai/main/nbs/images/', body)   # a package index has neither pictures
body = re.sub(r'\]\((?:\d+[a-z]?_)?([\w/]+)\.ipynb', r'](https://psm-fastai.github.io/psm_fastai/\1.html', body)      # nor notebooks; the site's pages have no numbers
body = re.sub(r'<style.*?</style>\n?', '', body, flags=re.S)
body = re.sub(r'\n{3,}', '\n\n', body).strip()
(Path(sys.argv[1]) if len(sys.argv)>1 else root/'README.md').write_text(f"{body}\n\n<!-- built from nbs/index.ipynb by tools/readme.py -->\n", encoding='utf-8')

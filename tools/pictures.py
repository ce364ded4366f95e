"""Make the pictures of nbs/images, and the page of nbs/pages: python tools/pictures.py
Trains on the digits as `psm_pretrain digits --compare moco` does, two minutes, and, where CIFAR-10 is at hand, on 10,000 of its images, and looks at the pages in headless Chromium"""
import matplotlib.pyplot as plt, shutil, tempfile
from pathlib import Path
from PIL import Image
from fastai.vision.all import fastai_cfg
from playwright.sync_api import sync_playwright
from psm_fastai.explore import mined_neighbours
from psm_fastai.pretrain import psm_pretrain

images = Path(__file__).resolve().parent.parent/'nbs/images'
images.mkdir(exist_ok=True)

def shrink(name): Image.open(images/name).convert('RGB').quantize(128, Image.Quantize.FASTOCTREE).save(images/name, optimize=True)     # the default would lose the colour of a thin line

# An image half of whose neighbours are right, with a long line to a wrong one
telling = """() => {
  const { explorer } = document.querySelector('.psm-map');
  const of = name => explorer.view.values(name, explorer.view.runs.length-1, explorer.view.last);
  const [right, far] = [of('right'), of('wrong_edge')];
  const i = [...far.keys()].filter(i => right[i] >= .4 && right[i] <= .7 && far[i] >= 0).sort((a, b) => far[b]-far[a])[0];
  if (i !== undefined) explorer.go(i);
}"""

def screenshot(out, name):
    exe = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    with sync_playwright() as p:
        page = p.chromium.launch(executable_path=exe, args=['--no-sandbox','--disable-gpu']).new_page(viewport=dict(width=1360, height=975))
        page.goto((out/'neighbours.html').resolve().as_uri())
        page.wait_for_selector('body[data-ready]')
        page.evaluate(telling)
        page.wait_for_timeout(800)
        page.screenshot(path=images/name)
    shrink(name)

out = Path(tempfile.mkdtemp())
learn = psm_pretrain('digits', compare='moco', out=out/'digits')
ids = mined_neighbours(learn, n=10, k=1).sort_values('query_label')['query'].tolist()[1::2]      # every other class: the home page's first screen holds no more
learn.show_neighbours(ids, k=8, size=.75)
plt.gcf().savefig(images/'neighbours.png', dpi=110)
shrink('neighbours.png')
screenshot(out/'digits', 'map.png')
shutil.copy(out/'digits/neighbours.html', images.parent/'pages')
if (fastai_cfg().path('data')/'cifar10').exists():
    psm_pretrain('cifar10', limit=10000, epochs=10, out=out/'cifar10')
    screenshot(out/'cifar10', 'page_cifar10.png')
shutil.rmtree(out)

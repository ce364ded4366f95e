"""The map in headless Chromium, without a graphics card: time to draw all dots, and to go to another image and another epoch

python benchmarks/explorer.py
"""
import shutil, statistics, sys, tempfile
from pathlib import Path
from fastcore.script import call_parse
from playwright.sync_api import sync_playwright
from psm_fastai.page import view_page
from bench import save
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tests'))
from fake_view import fake_view

measured = """async n => {
  const { explorer } = document.querySelector('.psm-map');
  const [map] = explorer.maps;
  const res = { draw: [], query: [], epoch: [] };
  const time = f => { const start = performance.now(); f(); return performance.now()-start };
  const frame = () => new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)));
  for (let i = 0; i < n; i++) {
    res.draw.push(time(() => { map.project(); map.drawDots(); map.drawThumbs(); }));
    res.query.push(time(() => explorer.set({ query: (i*7919) % explorer.view.n })));
    await frame();
    res.epoch.push(time(() => explorer.turnTo(i % 2)));
    await frame();
  }
  return res;
}"""

@call_parse
def main(
    images:int=50_000, # On the map
    n:int=20, # Draws and changes that are measured
):
    exe = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    with sync_playwright() as p, tempfile.TemporaryDirectory() as d:
        f = Path(d)/'p.html'
        f.write_text(view_page(fake_view(n=images, epochs=2, px=8)))
        page = p.chromium.launch(executable_path=exe, args=['--no-sandbox','--disable-gpu']).new_page(viewport=dict(width=1280, height=900), reduced_motion='reduce')
        page.goto(f.as_uri())
        page.wait_for_selector('body[data-ready]')
        row = dict(images=images)
        for name,times in page.evaluate(measured, n).items():
            row[f'{name}_ms'] = dict(median=statistics.median(times), worst=max(times))
            print(f"{name}: median {row[f'{name}_ms']['median']:.0f} ms, worst {row[f'{name}_ms']['worst']:.0f} ms")
    save('explorer', [row])

"""The map of a training: what recording costs while it runs, and laying it out afterwards, over the training

python benchmarks/map.py
python benchmarks/map.py --epochs 20 --every 1
python benchmarks/map.py --images 10240 --epochs 4 --every 1
"""
import time, warnings
warnings.filterwarnings('ignore')
from fastai.vision.all import Callback, DataLoaders, set_seed
from fastcore.script import call_parse
from psm_fastai.all import *
from bench import Pictures, save, silent

class Timed(NeighbourHistory):
    "A history that adds up the processor's time that its map takes"
    spent = 0.
    def timed(self, f, *args):
        start = time.process_time()
        f(*args)
        self.spent += time.process_time()-start
    def after_batch(self): self.timed(super().after_batch)
    def look_at_map(self, *args): self.timed(super().look_at_map, *args)
    def after_fit(self): self.timed(super().after_fit)

@call_parse
def main(
    epochs:int=65, # Of the training, as `psm_pretrain digits` has them
    every:int=4, # One epoch in so many is kept
    images:int=0, # Random images of 32 pixels; 0: the digits
):
    set_seed(0)
    history = Timed(every=every)
    dls = DataLoaders(*(MemoryDL(Pictures(n), bs=256, shuffle=True) for n in (images,256))) if images else digits_dls()
    learn = silent(psm_learner(dls, pretrained=False, cbs=[PSMCallback(momentum=.98, refresh=1), history]))
    start = time.process_time()
    learn.fit_one_cycle(epochs, 8e-3)
    trained,start = time.process_time()-start,time.process_time()
    history.map_layout()
    laid_out,start = time.process_time()-start,time.process_time()
    map_view(history)
    row = dict(images=len(dls.train_ds), epochs=epochs, kept=len(history.map), train_s=trained-history.spent, record_s=history.spent, layout_s=laid_out, view_s=time.process_time()-start)
    row.update(record=row['record_s']/row['train_s'], layout=(row['layout_s']+row['view_s'])/row['train_s'])
    print(f"{row['images']:,} images, {epochs} epochs of which {row['kept']} were kept: recording takes {row['record']:.1%} of the training's time, laying out and gathering {row['layout']:.1%}")
    save('map', [row], sizes=['images','epochs','kept'])

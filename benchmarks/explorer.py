"""Changing the image or the epoch in NeighbourExplorer, 64 probes and 200 epochs: time in the kernel

python benchmarks/explorer.py
"""
import random, statistics, time, warnings
warnings.filterwarnings('ignore')
from fastai.vision.all import set_seed
from fastcore.script import call_parse
from psm_fastai.all import *
from bench import save, silent

@call_parse
def main(
    epochs:int=200, # That were kept
    n:int=60, # Changes that are measured, of each kind
):
    set_seed(0)
    history = NeighbourHistory()
    learn = silent(psm_learner(digits_dls(bs=64), mine_after=0., cbs=[history]))
    learn.fit(1, 1e-3)
    for _ in range(epochs-1): history.look(learn)
    start = time.perf_counter()
    explorer = NeighbourExplorer(history)
    row,rng = dict(epochs=epochs, open_s=time.perf_counter()-start),random.Random(0)
    for name,values in (('query',history.ids), ('epoch',range(epochs))):
        times = []
        for _ in range(n):
            v,start = rng.choice(values),time.perf_counter()
            setattr(explorer, name, v)
            times.append(time.perf_counter()-start)
        row[f'{name}_ms'] = dict(median=statistics.median(times)*1e3, worst=max(times)*1e3)
        print(f"{name}: median {row[f'{name}_ms']['median']:.0f} ms, worst {row[f'{name}_ms']['worst']:.0f} ms")
    print(f"opened in {row['open_s']:.1f} s")
    save('explorer', [row])

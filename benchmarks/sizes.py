"""What a training by the recipes takes for a number of images: the time of a step, times the number of steps

python benchmarks/sizes.py
"""
import statistics, time, warnings
warnings.filterwarnings('ignore')
from fastai.vision.all import DataLoaders, set_seed
from fastcore.script import call_parse
from psm_fastai.all import *
from psm_fastai.recipe import by_size, recipe_for
from bench import Pictures, save, silent

def seconds_a_step(arch, size, bs, steps, rounds):
    "Seconds of a step with mining, for each of some short fits"
    set_seed(0)
    dls = DataLoaders(*(MemoryDL(Pictures(n, size), bs=min(n, bs), shuffle=True, drop_last=True) for n in (steps*bs,2)))
    learn = silent(psm_learner(dls, arch, pretrained=False, cbs=PSMCallback(mine_after=0.)))
    learn.fit(1, 1e-4)          # makes the index and fills caches
    def fit():
        start = time.perf_counter()
        learn.fit(1, 1e-4)
        return (time.perf_counter()-start)/steps
    return [fit() for _ in range(rounds)]

@call_parse
def main(
    steps:int=8, # Steps of a fit
    rounds:int=3, # Fits that are measured
):
    rows,known = [],{}
    for arch,size,pretrained in (('small_resnet',64,False), ('resnet18',128,True)):
        for n in (100, 1000, 10_000, 100_000):
            bs,epochs = by_size(n, recipe_for('photos', arch, pretrained=pretrained))
            if (arch,bs) not in known: known[arch,bs] = seconds_a_step(arch, size, bs, steps, rounds)
            total = epochs*(n//bs)
            minutes = statistics.median(known[arch,bs])*total/60
            rows.append(dict(arch=arch, size=size, pretrained=pretrained, images=n, bs=bs, epochs=epochs, steps=total, seconds=known[arch,bs], minutes=minutes))
            print(f"{arch}, {n:,} images of {size} pixels, batches of {bs}, {epochs} epochs: {total:,} steps, {minutes:.1f} minutes", flush=True)
    save('sizes', rows)

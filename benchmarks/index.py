"""What mining from the index costs, averaged over a training: a step with PSM over a step with MoCo, and the making of the index over an epoch

python benchmarks/index.py
"""
import math, warnings
warnings.filterwarnings('ignore')
import torch, torch.nn.functional as F
from fastai.vision.all import DataLoaders, set_seed
from fastcore.script import call_parse
from psm_fastai.all import *
from psm_fastai.neighbours import asked_images, weak_views
from bench import Pictures, in_turn, ratio, save, silent

@call_parse
def main(
    arch:str='cifar_resnet18', # Encoder
    n:int=256, # Images in the epochs that are measured
    bs:int=64, # Batch size
    bank:int=4096, # Rows of the bank
    rounds:int=5, # Measurements of each
    images:int=50_000, # Images of the training that the cost is stated for
    epochs:int=50, # Its epochs
):
    set_seed(0)
    def learner(cb):
        dls = DataLoaders(*(MemoryDL(Pictures(m), bs=min(m, bs), shuffle=True, drop_last=True) for m in (n,bs)))
        learn = silent(psm_learner(dls, arch, cbs=cb, pretrained=False))
        learn.fit(1, 1e-3)
        return learn
    psm = learner(PSMCallback(bank_size=bank, mine_after=0., trust=.5, refresh=10**6, views=photo_views()))       # more pairs than one would trust
    moco = learner(PSMCallback.moco(bank_size=bank, views=photo_views()))
    part = next(p for p in psm.psm.parts if isinstance(p, IndexCallback))
    feats = F.normalize(torch.randn(images, psm.model.projector[0].in_features), dim=1)
    some = torch.arange(0, images, math.ceil(images/1000))
    t = in_turn(rounds, moco=lambda: moco.fit(1, 1e-3), psm=lambda: psm.fit(1, 1e-3), make=part.make, search=lambda: nearest_images(feats, 20, feats[some], some))
    step = ratio(t['psm'], t['moco'])
    passes = [s/((1+weak_views)*n) for s in t['make']]          # of an image; weak views are made of each
    search = [s/len(some) for s in t['search']]
    mine_after,refresh = PSMCallback().settings['mine_after'],PSMCallback().settings['refresh']
    makings = math.ceil((1-mine_after)*epochs/refresh)
    def atomic_write(moco, psm, one, look):
        "Seconds of a training over MoCo's"
        steps = epochs*images/n*(mine_after*moco+(1-mine_after)*psm)
        return steps + makings*((images+weak_views*asked_images)*(one+look))
    of_moco = [epochs*images/n*m for m in t['moco']]
    over = ratio([atomic_write(*o) for o in zip(t['moco'], t['psm'], passes, search)], of_moco)
    print(f"a step over MoCo's: {step['ratio']:.3f} ({step['low']:.3f} to {step['high']:.3f})")
    print(f"a training of {epochs} epochs on {images:,} images, {makings} makings of the index: {over['ratio']:.3f} ({over['low']:.3f} to {over['high']:.3f})")
    save('index', [dict(arch=arch, n=n, bs=bs, bank=bank, images=images, epochs=epochs, makings=makings, seconds=t, step_over_moco=step, training_over_moco=over)], sizes=('arch','bs','bank','images','epochs'))

"""An epoch with the monitors of module `monitor`, at their defaults, over an epoch without them

python benchmarks/monitors.py
"""
import statistics, warnings
warnings.filterwarnings('ignore')
from fastai.vision.all import DataLoaders, set_seed
from fastcore.script import call_parse
from psm_fastai.all import *
from bench import Pictures, in_turn, ratio, save, silent

@call_parse
def main(
    arch:str='small_resnet', # Encoder
    n:int=10240, # Images in an epoch
    size:int=32, # Height and width
    bs:int=256, # Batch size
    bank:int=4096, # Rows of the bank
    rounds:int=5, # Measurements of each
):
    set_seed(0)
    def epoch(cbs):
        dls = DataLoaders(*(MemoryDL(Pictures(m, size, labels=True), bs=min(m, bs), shuffle=True, drop_last=True) for m in (n,2)))
        learn = silent(psm_learner(dls, arch, pretrained=False, cbs=[PSMCallback(bank_size=bank, mine_after=0., views=photo_views()), *cbs]))
        return lambda: learn.fit(1, 1e-3)
    t = in_turn(rounds, off=epoch([]), on=epoch([PurityCallback(), CollapseCallback(), AgreementCallback()]))
    over = ratio(t['on'], t['off'])
    print(f"on over off: {over['ratio']:.3f} ({over['low']:.3f} to {over['high']:.3f})")
    save('monitors', [dict(arch=arch, n=n, size=size, bs=bs, bank=bank, seconds=t, on_over_off=over)])

"""An epoch of training on a CPU if glibc keeps freed memory, over one in which it doesn't

python benchmarks/memory.py
"""
import json, resource, subprocess, sys, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
from fastcore.script import call_parse
from bench import ratio, save

def epochs(keep, epochs, n, bs, bank):
    "Print the CPU seconds of some epochs, in a process of their own: in programs, and in the system"
    from fastai.vision.all import DataLoaders, set_seed
    from psm_fastai.all import MemoryDL, PSMCallback, photo_views, psm_learner
    from psm_fastai.pretrain import keep_memory
    from bench import Pictures, silent
    if keep: assert keep_memory(), 'the C library of this machine is not glibc'
    set_seed(0)
    dls = DataLoaders(*(MemoryDL(Pictures(m), bs=min(m, bs), shuffle=True, drop_last=True) for m in (n,2)))
    learn = silent(psm_learner(dls, pretrained=False, cbs=PSMCallback(bank_size=bank, views=photo_views())))
    learn.fit(1, 1e-3)          # fills caches and the bank
    a = resource.getrusage(resource.RUSAGE_SELF)
    learn.fit(epochs, 1e-3)
    b = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([b.ru_utime-a.ru_utime, b.ru_stime-a.ru_stime, b.ru_maxrss/1024]))

@call_parse
def main(
    n:int=5120, # Images in an epoch, of 32 x 32 pixels
    bs:int=128, # Batch size
    bank:int=4096, # Rows of the bank
    n_epoch:int=1, # Epochs that are measured
    rounds:int=4, # Measurements of each
    keep:int=None, # Used by the program itself
):
    if keep is not None: return epochs(keep, n_epoch, n, bs, bank)
    found = {0: [], 1: []}
    for _ in range(rounds):
        for k in found:
            args = [sys.executable, str(Path(__file__).resolve()), '--keep', str(k), '--n', str(n), '--bs', str(bs), '--bank', str(bank), '--n-epoch', str(n_epoch)]
            found[k].append(json.loads(subprocess.run(args, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]))
            user,system,peak = found[k][-1]
            print(f"{'kept' if k else 'given back'}: {user+system:.1f} CPU seconds, {system/(user+system):.1%} of them in the system, {peak:.0f} MB at most", flush=True)
    total = {k: [u+s for u,s,_ in v] for k,v in found.items()}
    over = ratio(total[1], total[0])
    print(f"kept over given back: {over['ratio']:.3f} ({over['low']:.3f} to {over['high']:.3f})")
    names = {0: 'given_back', 1: 'kept'}
    seconds = {names[k]: total[k] for k in found}
    system = {names[k]: [s for _,s,_ in v] for k,v in found.items()}
    peak = {names[k]: max(p for *_,p in v) for k,v in found.items()}
    save('memory', [dict(n=n, bs=bs, bank=bank, epochs=n_epoch, seconds=seconds, system=system, peak_mb=peak, kept_over_given_back=over)])

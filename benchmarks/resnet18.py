"""A recipe for a ResNet-18 on CIFAR-10, chosen and then used. First MoCo with Adam and with SGD, each with split_bn 1 and 8, measured on held-out training images; then MoCo and PSM with the best of the four; then a long training with PSM, as far as the time goes

python benchmarks/resnet18.py --minutes 60                         on a GPU
python benchmarks/resnet18.py --epochs 2 --pair-epochs 2 --long-epochs 2 --limit 64 --bs 32 --held-out 64 --final-held-out 64 --out trial      a trial on two cores

A row each tenth of a training, written at once: to NAME-now.csv while it runs, to NAME.csv once it has ended. Started again, the program trains what has not ended.
"""
import time, warnings
warnings.filterwarnings('ignore')
import pandas as pd, torch
from concurrent.futures import ProcessPoolExecutor
from fastai.vision.all import AMPMode, Callback, ChannelsLast, MixedPrecision, Path
from fastcore.script import call_parse
from multiprocessing import get_context
from psm_fastai.all import *
from psm_fastai.experiment import pretrain_and_follow, resolved, sweep
from bench import here

class TimeIsUp(KeyboardInterrupt): "`sweep` lets it pass, and writes no row of a failure"

class Until(Callback):
    "Stop a training when the time is up"
    def __init__(self, end): self.end = end
    def after_batch(self):
        if time.time()>self.end: raise TimeIsUp

class Compile(Callback):
    def before_fit(self): self.model.compile()

def leakage(learn):
    "`batch_leakage` of images that were not trained on, in batches as large as those of the training"
    bs = min(learn.dls.train.bs, len(learn.dls.valid_ds)//2)
    x = torch.cat([b[0] for b in learn.dls.valid])[:8*bs].as_subclass(torch.Tensor)
    return batch_leakage(psm_model(learn), [*x.split(bs)][:len(x)//bs])

def train(name, folder, end, linear, settings):
    "The rows of a training, run now or before; None where the time was up"
    now = folder/f'{name}-now.csv'
    def trained(**settings):
        rows,gpu = [],torch.cuda.is_available()
        def each(learn, row):
            more = dict(batch_leakage=leakage(learn)) if row['epoch']==learn.n_epoch else {}
            rows.append(dict(settings, **row, **more))
            pd.DataFrame(rows).to_csv(now, index=False)
            print(name, *(f'{n} {v:.3f}' if isinstance(v, float) else f'{n} {v}' for n,v in {**row, **more}.items() if n in ('epoch','knn','purity','batch_leakage')), flush=True)
            return dict(more, precision='bf16, compiled' if gpu else 'fp32')
        return pretrain_and_follow(cbs=[Until(end)] + [MixedPrecision(amp_mode=AMPMode.BF16), ChannelsLast(), Compile()]*gpu, each=each, linear=linear, **settings)
    try: t = sweep([settings], folder/f'{name}.csv', trained)
    except TimeIsUp: return print(f'{name}: the time is up', flush=True)
    now.unlink(missing_ok=True)
    return t

@call_parse
def main(
    minutes:float=60, # When these are over, what runs is stopped
    epochs:int=25, # Of the four trainings to choose from
    pair_epochs:int=50, # Of MoCo and PSM
    long_epochs:int=200, # Of PSM at the end
    bs:int=None, # Batch size (default: 256 with Adam, 512 with SGD)
    limit:int=None, # At most so many training images
    held_out:int=5000, # Training images to choose by
    final_held_out:int=0, # Training images to measure the later trainings by; 0: the test images
    jobs:int=2, # Trainings side by side
    seed:int=0, # Seed of weights, views and order
    out:str=None, # Folder for the tables (default: benchmarks/results/resnet18)
):
    "Choose a recipe for a ResNet-18 on CIFAR-10, and train with it"
    end,folder = time.time()+60*minutes,Path(out or here/'results/resnet18')
    folder.mkdir(parents=True, exist_ok=True)
    net = dict(data='cifar10', arch='cifar_resnet18', seed=seed, **(dict(limit=limit) if limit else {}))
    def four(opt, split): return dict(net, opt=opt, bs=bs or (256 if opt=='adam' else resolved(**net, opt=opt)['bs']), split_bn=split)
    choice = {f'{opt}-split{split}': four(opt, split) for opt in ('adam','sgd') for split in (1,8)}
    with ProcessPoolExecutor(jobs, mp_context=get_context('spawn')) as pool:
        def run(plans, linear=True):
            "Name to rows of the trainings that have ended"
            futures = {n: pool.submit(train, n, folder, end, linear, s) for n,s in plans.items()}
            tables = {n: f.result() for n,f in futures.items()}
            return {n: t for n,t in tables.items() if t is not None and 'knn' in t}
        first = run({f'moco-{n}': dict(s, method='moco', epochs=epochs, held_out=held_out) for n,s in choice.items()}, linear=False)
        if len(first)<len(choice): return print(f'{len(first)} of {len(choice)} trainings have ended; start again to go on. Tables in {folder}')
        best = max(choice, key=lambda n: first[f'moco-{n}'].knn.iloc[-1])
        print(f'best of the four: {best}')
        def later(method, epochs): return {f'{method}-{best}-{epochs}': dict(choice[best], method=method, epochs=epochs, held_out=final_held_out)}
        second = run({**later('psm', pair_epochs), **later('moco', pair_epochs)})
        last = run(later('psm', long_epochs)) if len(second)==2 and long_epochs!=pair_epochs else {}
    ends = pd.DataFrame({n: t.iloc[-1] for n,t in {**first, **second, **last}.items()}).T
    print(ends[[c for c in ('epoch','knn','linear','bank_purity','purity','batch_leakage','seconds') if c in ends]].to_string())
    print(f'\nTables in {folder}')

"""A step on a CPU whose cores other programs use too: with all threads, with one thread, and with threads that wait without spinning

python benchmarks/busy.py
"""
import json, multiprocessing as mp, os, statistics, subprocess, sys, time, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
from fastcore.script import call_parse
from bench import save

ways = {'all threads': {}, 'one thread': dict(OMP_NUM_THREADS='1'), 'passive waiting': dict(OMP_WAIT_POLICY='passive')}

def work():
    "What the other programs do"
    while True: sum(i*i for i in range(100_000))

def train(epochs):
    "Print the seconds of a step of the digits' training"
    from fastai.vision.all import set_seed
    from psm_fastai.all import PSMCallback, digits_dls, psm_learner
    from bench import silent
    set_seed(0)
    learn = silent(psm_learner(digits_dls(), cbs=PSMCallback(momentum=.98)))
    learn.fit(1, 1e-3)          # fills caches and the bank
    start = time.perf_counter()
    learn.fit(epochs, 1e-3)
    print(json.dumps((time.perf_counter()-start)/epochs/len(learn.dls.train)))

def seconds(env):
    args = [sys.executable, str(Path(__file__).resolve()), '--child']
    env = dict({k: v for k,v in os.environ.items() if not k.startswith('OMP_')}, **env)
    return json.loads(subprocess.run(args, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])

@call_parse
def main(
    rounds:int=3, # Measurements of each
    child:bool=False, # Used by the program itself
):
    if child: return train(2)
    rows,cores = [],os.cpu_count()
    for n in (0, cores):
        others = [mp.Process(target=work, daemon=True) for _ in range(n)]
        for p in others: p.start()
        found = {w: [] for w in ways}
        for _ in range(rounds):
            for w,env in ways.items(): found[w].append(seconds(env))
        for p in others: p.terminate()
        ms = {w: 1000*statistics.median(s) for w,s in found.items()}
        print(f"{n} other programs on {cores} cores: " + ', '.join(f'{w} {m:.0f} ms' for w,m in ms.items()), flush=True)
        rows.append(dict(others=n, cores=cores, seconds=found))
    save('busy', rows)

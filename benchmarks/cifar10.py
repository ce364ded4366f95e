"""An unattended CIFAR-10 run: accuracy and wall-clock. Started again after an interruption it goes on from its last epoch, and a finished run adds a row to benchmarks/results/cifar10.csv

python benchmarks/cifar10.py                                       200 epochs of cifar_resnet18
python benchmarks/cifar10.py --method moco --precision bf16 --compile --seed 1
All options of psm_pretrain may be given.
"""
import json, subprocess, sys
import pandas as pd
from pathlib import Path
from psm_fastai.experiment import git_commit
from bench import here

defaults = {'--arch': 'cifar_resnet18', '--epochs': '200', '--bs': '512', '--eval': 'knn,linear'}

def main():
    given = sys.argv[1:]
    opts = [o for n,v in defaults.items() if n not in given for o in (n,v)] + given
    if '--out' not in opts: opts += ['--out', 'runs/cifar10'+''.join('-'+o.strip('-').replace(',','_') for o in given)]
    out = Path(opts[opts.index('--out')+1])
    begun = any(out.glob('checkpoint*.pth'))
    code = subprocess.run(['psm_pretrain', 'cifar10', *opts, *['--resume']*begun]).returncode
    if code: sys.exit(code)
    run = json.loads((out/'run.json').read_text())
    row = {n: run[n] for n in ('method','arch','epochs','bs','lr','opt','precision','seed','seconds')}      # seconds of the last start
    row['training_seconds'] = round(pd.read_csv(out/'history.csv').seconds.sum(), 1)
    row.update({f'{name} {kind}': a['accuracy'] for name,kinds in run['scores'].items() for kind,a in kinds.items()}, settings=json.dumps(run['settings']), hardware=json.dumps(run['hardware']), **run['versions'],
        commit=git_commit(here), command=' '.join(['benchmarks/cifar10.py', *given]))
    f = here/'results/cifar10.csv'
    f.parent.mkdir(exist_ok=True)
    pd.concat(([pd.read_csv(f)] if f.exists() else []) + [pd.DataFrame([row])]).to_csv(f, index=False)
    print(f'a row more in {f}')

if __name__=='__main__': main()

"""`import psm_fastai.all` over `import fastai.vision.all`, and the command's imports without collection of garbage over with it, each in a process of its own

python benchmarks/imports.py
"""
import subprocess, sys
from fastcore.script import call_parse
from bench import in_turn, ratio, save

def imports(module, before=''):
    def f(): subprocess.run([sys.executable, '-W', 'ignore', '-c', f'{before}import {module}'], check=True)
    return f

collecting = 'import gc; gc.disable = gc.freeze = lambda: None; '

@call_parse
def main(rounds:int=5): # Measurements of each
    t = in_turn(rounds, ours=imports('psm_fastai.all'), fastai=imports('fastai.vision.all'))
    r = ratio(t['ours'], t['fastai'])
    print(f"{r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})")
    c = in_turn(rounds, paused=imports('psm_fastai.pretrain'), collecting=imports('psm_fastai.pretrain', collecting))
    p = ratio(c['paused'], c['collecting'])
    print(f"{p['ratio']:.3f} ({p['low']:.3f} to {p['high']:.3f})")
    save('imports', [dict(seconds={**t, **c}, over_fastai=r, paused_over_collecting=p)])

"""`import psm_fastai.all` over `import fastai.vision.all`, each in a process of its own

python benchmarks/imports.py
"""
import subprocess, sys
from fastcore.script import call_parse
from bench import in_turn, ratio, save

def imports(module):
    def f(): subprocess.run([sys.executable, '-W', 'ignore', '-c', f'import {module}'], check=True)
    return f

@call_parse
def main(rounds:int=5): # Measurements of each
    t = in_turn(rounds, ours=imports('psm_fastai.all'), fastai=imports('fastai.vision.all'))
    r = ratio(t['ours'], t['fastai'])
    print(f"{r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})")
    save('imports', [dict(seconds=t, over_fastai=r)])

"""How the code of each notebook reads, in figures: python tools/habits.py

A report for people, not a target: a line that reads well at 150 characters stays."""
import ast, json
from pathlib import Path
import pandas as pd

root = Path(__file__).resolve().parent.parent

def code_cells(nb):
    "The code of a notebook, cell by cell, and whether it is exported"
    for c in json.loads(nb.read_text(encoding='utf-8'))['cells']:
        code = ''.join(c['source'])
        if c['cell_type']!='code' or not code.strip() or code.startswith('#| hide'): continue
        yield code,code.startswith(('#| export','#|export'))

def lines(code): return [l for l in code.splitlines() if l.strip() and not l.startswith('#|')]

def stretch(cells):
    "Most exported lines before a reader can run something"
    longest = now = 0
    for code,exported in cells:
        now = now+len(lines(code)) if exported else 0
        longest = max(longest, now)
    return longest

def functions(tree):
    for f in ast.walk(tree):
        if isinstance(f, (ast.FunctionDef,ast.AsyncFunctionDef)): yield f.end_lineno-f.body[0].lineno+1

def habits(nb):
    "A row of figures"
    cells = list(code_cells(nb))
    exported = [code for code,e in cells if e]
    shown = sum(len(lines(code)) for code,e in cells if not e)
    text = [l for code in exported for l in lines(code)]
    if not text: return None
    trees = [ast.parse(code) for code in exported]
    nodes = [n for t in trees for n in ast.walk(t)]
    def a_thousand(*kinds): return 1000*sum(isinstance(n, kinds) for n in nodes)/len(text)
    return dict(notebook=nb.stem, lines=len(text), over_140=sum(len(l)>140 for l in text), a_cell=len(text)/len(exported),
        examples=shown/len(text), stretch=stretch(cells), longest=max((n for t in trees for n in functions(t)), default=0),
        conditional=a_thousand(ast.IfExp), raised=a_thousand(ast.Raise))

if __name__=='__main__':
    table = pd.DataFrame([h for f in sorted(root.glob('nbs/*.ipynb')) if (h := habits(f))]).set_index('notebook')
    print(table.round(dict(a_cell=0, examples=2, conditional=0, raised=0)).to_string())
    total = table.lines.sum()
    print(f"\n{total:,} exported lines, {table.over_140.sum()/total:.1%} over 140 characters, {total/(table.lines/table.a_cell).sum():.0f} a cell, "
          f"{(table.examples*table.lines).sum()/total:.2f} example lines for each")

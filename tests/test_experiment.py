"Sweeps lose nothing and compute nothing twice; stored results can be computed again, and the defaults are the setting that was chosen"
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pandas as pd, pytest, torch
from psm_fastai.all import *
from psm_fastai import experiment
from psm_fastai.experiment import *
from common import Spy

results = Path(__file__).parent.parent/'results'

def double(x, **kwargs): return dict(y=2*x, **kwargs)

@pytest.mark.posix
def test_a_killed_sweep_goes_on(tmp_path):
    "Killed in its third training, it keeps two rows, and started again it runs the third and the fourth"
    began,table = tmp_path/'began.txt',tmp_path/'table.csv'
    began.touch()
    def run(x):
        with began.open('a') as f: f.write(f'{x} ')
        if x==2 and not (tmp_path/'again').exists(): time.sleep(60)
        return dict(y=2*x)
    def start(): return sweep([dict(x=i) for i in range(4)], table, run)
    pid = os.fork()
    if not pid:
        try: start()
        finally: os._exit(1)
    while '2' not in began.read_text(): assert os.waitpid(pid, os.WNOHANG)==(0,0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    before = table.read_text()
    assert pd.read_csv(table).y.tolist()==[0,2]
    (tmp_path/'again').touch()
    start()
    assert began.read_text().split()==['0','1','2','2','3']
    assert table.read_text().startswith(before) and pd.read_csv(table).y.tolist()==[0,2,4,6]
    assert [f.name for f in tmp_path.glob('*.csv*')]==['table.csv']

def test_a_row_deleted_meanwhile_stays_deleted(tmp_path):
    sweep([dict(x=1),dict(x=2)], tmp_path/'t.csv', double)
    def deletes(x):
        t = pd.read_csv(tmp_path/'t.csv')
        t[t.x!=1].to_csv(tmp_path/'t.csv', index=False)
        return dict(y=0)
    sweep([dict(x=3)], tmp_path/'t.csv', deletes)
    assert pd.read_csv(tmp_path/'t.csv').x.tolist()==[2,3]

def test_pretraining_again_is_the_same():
    experiment._all_images.cache_clear()
    a,b = (pretrain(epochs=1, limit=200, bank_size=128).model.state_dict() for _ in range(2))
    assert all(torch.equal(a[n], b[n]) for n in a)

def test_an_optimizer_brings_its_recipe():
    "And without one nothing has changed: no column more, and Adam in fastai's cycle"
    seen = {}
    def look(name): return Spy(after_batch=lambda cb: seen.setdefault(name, []).append((cb.opt.hypers[0]['mom'], len(cb.opt.cbs))))
    pretrain(method='moco', opt='sgd', epochs=1, limit=200, cbs=look('sgd'))
    pretrain(method='moco', epochs=1, limit=200, cbs=look('adam'))
    assert {*seen['sgd']}=={(.9,3)} and len({*seen['adam']})==3 and {n for _,n in seen['adam']}=={5}
    assert 'opt' not in resolved() and resolved(opt='adam')=={**resolved(), 'opt': 'adam', 'warmup': None}

def test_a_stored_row_is_computed_again():
    "Within what another machine's arithmetic may change"
    stored = pd.read_csv(results/'small.csv').iloc[0]
    now = pretrain_and_measure(**json.loads(stored.settings))
    assert set(now) <= set(stored.index)
    assert now['n']==stored.n and abs(now['knn']-stored.knn) < .05
    for n in ('bank_purity','purity','chance','false_neg','fn_uniform'): assert abs(now[n]-stored[n]) < .03, n
    assert abs(now['effective_n']/stored.effective_n-1) < .1

def test_defaults_are_the_row_that_was_selected():
    """Those of the rule that was searched, mining from the bank.
    Its settings are written out in the table; a default that is changed has to be selected anew"""
    selected = json.dumps({**json.loads(json.loads((results/'selected.json').read_text())['default']), 'method': 'from_bank'},
                          sort_keys=True)
    row = next(r for r in pd.read_csv(results/'digits_search.csv').to_dict('records') if r['settings']==selected)
    settings = PSMCallback.from_bank().settings
    defaults = {n: settings[n] for n in ('rule','mine_after',*PSMLoss.settings())}
    assert len(defaults)==9 and {n: row[n] for n in defaults}==defaults

def test_stored_rows_were_made_with_todays_defaults():
    "So that a setting's name in a table means what it means in the library"
    seen = 0
    for f in results.glob('*.csv'):
        for r in pd.read_csv(f).drop_duplicates('call').to_dict('records'):
            given = json.loads(r['settings'])
            if given.get('method')=='scratch' or 'images' in given: continue      # no training by `pretrain`
            # those of the function that trained
            now = resolved(**{n: v for n,v in given.items() if n not in ('linear','knn_k','by','mutual','right')})
            for n,v in now.items(): assert str(r[n])==str(v) or r[n]==v or v is None and r[n]!=r[n], (f.name, r['settings'], n, r[n], v)
            seen += 1
    assert seen>400

@pytest.mark.parametrize('f', sorted(results.glob('*.csv')), ids=lambda f: f.name)
def test_stored_results_are_whole(f):
    t = pd.read_csv(f)
    assert t[['seconds','torch','psm_fastai','commit','call','settings']].notna().all(axis=None)
    for row in t.itertuples(): assert isinstance(json.loads(row.settings), dict)
    if 'knn' in t: assert t.knn[t.error.isna() if 'error' in t else slice(None)].between(0, 1).all()
    assert 'error' not in t or 'search' in f.name, 'a failed training outside of the search; its row is to be mended and run again'

two_at_once = """import sys, time
from pathlib import Path
from psm_fastai.experiment import sweep
table,xs = sys.argv[1:]
def f(x):
    with open(table+'.log', 'a') as log: log.write(f'{x}\\n')
    time.sleep(.3)
    return dict(y=x)
sweep([dict(x=i) for i in eval(xs)], table, f)"""

def test_two_processes_share_a_table(tmp_path):
    "No row is lost, and what one has done or is doing the other leaves out"
    table = tmp_path/'t.csv'
    ps = [subprocess.Popen([sys.executable, '-c', two_at_once, table, r]) for r in ('range(12)','range(12)')]
    assert [p.wait() for p in ps]==[0,0]
    assert sorted(pd.read_csv(table).x)==[*range(12)]
    assert sorted(map(int, (tmp_path/'t.csv.log').read_text().split()))==[*range(12)]          # each was run once
    assert {f.name for f in tmp_path.iterdir()}=={'t.csv','t.csv.log'}

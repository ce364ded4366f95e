"Runs that are killed, at any moment and in the middle of writing a checkpoint, continue with --resume as if nothing had happened"
import os, random, signal, sys, time
import pandas as pd, pytest, torch
from psm_fastai import pretrain

pytestmark = pytest.mark.posix

def start(out, seed, kill_write=None):
    "`psm_pretrain` in a process of its own; `kill_write`: killed halfway through writing that many checkpoints"
    pid = os.fork()
    if pid: return pid
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        save,n = torch.save,[0]
        def cut(obj, path, **kwargs):
            save(obj, path, **kwargs)
            n[0] += 1
            if n[0]==kill_write:
                os.truncate(path, os.path.getsize(path)//2)
                os.kill(os.getpid(), signal.SIGKILL)
        torch.save = cut
        pretrain.psm_pretrain('digits', epochs=5, bs=20, limit=60, seed=seed, out=out, resume=(out/'run.json').exists())
        os._exit(0)
    finally: os._exit(1)

def finish(pid): return os.waitpid(pid, 0)[1]
def history(out): return pd.read_csv(out/'history.csv').drop(columns='seconds')
def weights(out): return (out/'encoder.safetensors').read_bytes()

def kill_and_resume(tmp_path, times, seed):
    rng = random.Random(seed)
    begin = time.time()
    assert finish(start(tmp_path/'whole', seed))==0
    length,killed,done = time.time()-begin,0,0
    while killed<times:
        out = tmp_path/f'run{done}'
        pid = start(out, seed, kill_write=rng.randint(1,4) if killed%2==0 else None)
        if killed%2:
            time.sleep(rng.random()*length)
            os.kill(pid, signal.SIGKILL)
        if finish(pid)==0: done += 1      # it was through already: on with another run
        else: killed += 1
        f = out/'checkpoint.pth'
        # always a whole one, written after the table
        if f.exists(): assert len(history(out))-torch.load(f, weights_only=True)['epoch'] in (0,1)
    while finish(start(tmp_path/f'run{done}', seed)): pass
    for i in range(done+1):
        out = tmp_path/f'run{i}'
        # the moving average of the loss begins anew with each process
        pd.testing.assert_frame_equal(history(out).drop(columns='train_loss'), history(tmp_path/'whole').drop(columns='train_loss'))
        assert weights(out)==weights(tmp_path/'whole')
        assert {f.name for f in out.iterdir()}=={f.name for f in (tmp_path/'whole').iterdir()}

@pytest.mark.guarantee('killed')
@pytest.mark.skipif(not hasattr(os, 'fork') or sys.platform=='darwin', reason='needs fork')
def test_three_kills(tmp_path): kill_and_resume(tmp_path, 3, int(time.time()))

@pytest.mark.slow
@pytest.mark.guarantee('killed')
@pytest.mark.skipif(not hasattr(os, 'fork') or sys.platform=='darwin', reason='needs fork')
def test_twenty_kills(tmp_path): kill_and_resume(tmp_path, 20, 0)

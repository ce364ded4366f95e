"Two processes, by `accelerate launch` on one machine or two, against one plain loop over both parts of each batch"
import os, socket, subprocess, sys
from pathlib import Path
import pytest, torch
from fastai.vision.all import nn
from psm_fastai.all import *
from common import mirror, once

pytestmark = pytest.mark.posix

modes = 'plain','index','ungathered','synced'

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def launch(path):
    "Half of the modes on one machine with two processes, the others as on two machines with one process each"
    run(path, modes[:2], machines=1)
    run(path, modes[2:], machines=2)

def errors_in(file):
    text = file.read_text()
    return '\n'.join(l for l in text.splitlines() if l.startswith('[rank'))[-3000:] or text[-3000:]

def run(path, modes, machines):
    tests,port = Path(__file__).parent,free_port()
    env = dict(os.environ, OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true', GLOO_SOCKET_IFNAME='lo',
        PYTHONPATH=os.pathsep.join(filter(None, [str(tests), os.environ.get('PYTHONPATH')])))
    options = f'--multi_gpu --num_processes 2 --num_machines {machines} --mixed_precision no --dynamo_backend no --main_process_port {port}'
    if machines>1: options += ' --main_process_ip 127.0.0.1'
    def start(i):
        cmd = [Path(sys.executable).parent/'accelerate', 'launch', *options.split(), '--machine_rank', i,
            tests/'ddp_run.py', path, ','.join(modes)]
        with open(path/f'errors{i}.txt', 'w') as f:
            return subprocess.Popen([str(o) for o in cmd], env=env, stdout=subprocess.DEVNULL, stderr=f)
    started = [start(i) for i in range(machines)]
    try: codes = [p.wait(timeout=480) for p in started]
    except subprocess.TimeoutExpired: codes = None
    finally:
        for p in started: p.terminate()         # if one has failed, the other would wait for it
    assert codes==[0]*machines, '\n'.join(errors_in(path/f'errors{i}.txt') for i in range(machines))

@pytest.fixture(scope='module')
def launched(tmp_path_factory):
    "The folder to which both processes wrote. Each of them trains once in each mode, as to start them takes longer than to train"
    return once(tmp_path_factory, 'processes', launch)

def ranks_of(launched, mode): return [torch.load(launched/mode/f'{r}.pth', weights_only=False) for r in (0,1)]

def banks_agree(a, b):
    return all(torch.allclose(s[n].float(), t[n].float(), atol=1e-6) for s,t in zip(a['seen'][1:], b['seen'][1:]) if 'feats' in s
               for n in ('feats','ids','labels'))

def same_maps(a, b, n):
    "Of each image both processes have the features, the loss and the neighbours, whichever of them trained on it"
    assert a['map'].keys()==b['map'].keys() and all(torch.equal(t.nan_to_num(), b['map'][k].nan_to_num()) for k,t in a['map'].items())
    known = a['map']['feats'][[0,2]],a['map']['loss'][1:]        # features of the first and the last time; no loss before training
    return a['map']['epochs'].tolist()==[0,1,2] and all(t.shape[:2]==(2,n) and t.isfinite().all() for t in known)

@pytest.mark.guarantee('processes')
def test_lightly_1018_the_banks_of_all_processes_are_one(launched):
    """lightly #1018: each process has its own queue.
    95 images in batches of 10, two processes: the last batches are shorter, and one image is there twice"""
    ranks = ranks_of(launched, 'plain')
    a,b = (r['seen'] for r in ranks)
    dls = digits_dls(bs=10, limit=95)
    images,labels = (torch.cat(t) for t in zip(*[(x.as_subclass(torch.Tensor),y.as_subclass(torch.Tensor))
                                                 for x,y in dls.train.new(shuffle=False, drop_last=False)]))
    x = images[:2]
    m = PSMModel(nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2)), x, bank_size=50, proj_dim=16,
                 loss=PSMLoss(n_pos=4, n_neg=None))
    m.projector,m.momentum_projector = nn.Linear(16, 16),nn.Linear(16, 16).requires_grad_(False)
    m.load_state_dict({n.removeprefix('module.'): t for n,t in a[0].items()})
    assert all(torch.equal(t, b[0][n]) for n,t in a[0].items()) and len(m.bank)==50       # primed alike, though they draw apart
    trained,steps = [*m.encoder.parameters(), *m.projector.parameters()],0
    for s,t in zip(a, b):
        if 'weights' not in s: continue        # the beginning of an epoch
        ids = torch.tensor(s['asked']+t['asked'])
        q,k = m(*mirror(images[ids]))
        m.loss(q, k, ids, m.bank).mean().backward()
        with torch.no_grad():
            for p in trained: p -= .1*p.grad; p.grad = None
        m.update_momentum(.9)
        m.bank.enqueue(k, ids, labels[ids])
        for r in (s,t):
            assert all(torch.equal(r[n], getattr(m.bank, n)) for n in ('ids','labels','steps'))
            assert torch.allclose(r['feats'], m.bank.feats, atol=1e-6)
            assert all(torch.allclose(p, w, atol=1e-6) for p,w in zip(m.encoder.parameters(), r['weights']))
        assert all(map(torch.equal, s['weights'], t['weights']))
        steps += 1
    assert steps==10 and ranks[0]['purity']==ranks[1]['purity'] and same_maps(*ranks, 95)
    assert torch.equal(ranks[0]['features'], ranks[1]['features'])
    saved = torch.load(launched/'plain/c.pth', weights_only=True)
    assert len(saved['random'])==2 and saved['random'][0]['torch_state'].tolist()!=saved['random'][1]['torch_state'].tolist()

@pytest.mark.guarantee('processes')
def test_all_processes_have_the_same_index(launched):
    "Each computes its share of the features and of the search; 95 images, which two can't share evenly"
    a,b = ranks_of(launched, 'index')
    assert all(torch.equal(t, b['index'][n]) for n,t in a['index'].items()) and a['index']['near'].shape==(95,4)
    assert a['purity']==b['purity'] and banks_agree(a, b) and same_maps(a, b, 95)
    dls = digits_dls(bs=10, limit=95)
    assert a['index']['labels'].tolist()==[int(y) for _,y in dls.train_ds] and (a['index']['steps']>=0).all()
    x = torch.cat([x for x,_ in dls.train.new(shuffle=False, drop_last=False)]).as_subclass(torch.Tensor)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
    # the index of the second is made of the momentum network at its start
    epochs = [s for s in a['seen'] if any(n.endswith('momentum_encoder.0.weight') for n in s)]
    net.load_state_dict({n.split('momentum_encoder.')[1]: t for n,t in epochs[1].items() if 'momentum_encoder.' in n})
    with torch.no_grad(): f = net(x).mean((2,3))
    f = torch.nn.functional.normalize(f-f.mean(0), dim=1)
    sims,near = (f @ f.T).fill_diagonal_(-2).topk(4, dim=1)
    assert torch.allclose(a['index']['sims'], sims, atol=1e-5) and (a['index']['near']==near).float().mean()>.98

@pytest.mark.guarantee('processes')
def test_synchronised_batch_norm_and_drawn_negatives_do_not_wait_for_ever(launched):
    "Whatever passes through the network does so in all processes; looking before the first step, too"
    a,b = ranks_of(launched, 'synced')
    assert banks_agree(a, b) and len(a['seen'])==len(b['seen'])==8

@pytest.mark.guarantee('processes')
def test_too_few_images_for_each_process_are_refused(learn, monkeypatch):
    monkeypatch.setattr('psm_fastai.callback.n_ranks', lambda learn: 8)
    with pytest.raises(ValueError, match='gives no batch: 25 images, of each process, batch size 32, drop_last=True'):
        learn.psm.loss_cb.look_at_data()

@pytest.mark.guarantee('processes')
def test_without_gathering_the_banks_would_differ(launched):
    "The test above can fail: DDP's broadcast of buffers is kept away from the bank, also where the loss reads it"
    a,b = ranks_of(launched, 'ungathered')
    assert not banks_agree(a, b)
    read = [(s['read'],t['read']) for s,t in zip(a['seen'], b['seen']) if 'read' in s]
    assert torch.equal(*read[0]) and not any(torch.equal(*r) for r in read[1:])      # alike when primed, and never again

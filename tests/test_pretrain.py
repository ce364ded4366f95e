"The command as a user meets it"
import json, os, subprocess, sys, sysconfig, warnings
import pandas as pd, pytest
from pathlib import Path
from psm_fastai import pretrain
from psm_fastai.history import NeighbourHistory
from common import command
from data import digit_files
from fake_view import unpacked

def on_mac(args): return (*args,'--device','cpu') if sys.platform=='darwin' and '--device' not in args else args      # see conftest.py

def psm_pretrain(*args):
    "The installed command, in a process of its own"
    program = Path(sysconfig.get_path('scripts'))/'psm_pretrain'
    return subprocess.run([program, *map(str, on_mac(args))], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))

def test_digits_and_moco(tmp_path, capsys):
    args = 'digits','--epochs',2,'--limit',300,'--compare','moco','--out',tmp_path/'run'
    code,said,err = command(capsys, *on_mac(args))
    assert code==0, err
    for line in ('raw pixels', 'untrained', 'PSM', 'MoCo', 'chance'): assert line in said
    r = json.loads((tmp_path/'run/run.json').read_text())
    psm,moco = (r['scores'][n]['knn']['accuracy'] for n in ('PSM','MoCo'))
    alone = r['compared']['knn']
    assert round((psm-moco)*450)==alone['only_first']-alone['only_second']
    assert f"Of 450 images PSM alone is right for {alone['only_first']} and MoCo alone for {alone['only_second']} (p " in said
    names = {f.name for f in (tmp_path/'run').iterdir()}
    assert names=={'encoder.safetensors','features.parquet','before_after.png','history.csv','history_moco.csv','curves.png',
                   'neighbours.html','run.json','checkpoint.pth','checkpoint_moco.pth','neighbours.parquet','neighbours.safetensors',
                   'neighbours_moco.parquet','neighbours_moco.safetensors'}
    assert NeighbourHistory.load(tmp_path/'run').title=='PSM'
    assert NeighbourHistory.load(tmp_path/'run/neighbours_moco').metrics().knn_acc[1:].notna().all()
    h = pd.read_csv(tmp_path/'run/history.csv')
    assert {'epoch','train_loss','valid_loss','purity','false_neg','trusted','knn_acc','lr','seconds'} <= set(h.columns) and len(h)==2
    # of nothing there is no purity
    assert h.drop(columns='purity').notna().all(axis=None) and (h.purity.notna() | (h.trusted==0)).all()

def test_the_same_seed_gives_the_same_history(tmp_path, capsys):
    "In a process of its own, and in this one, which drew random numbers before"
    args = 'digits','--epochs',1,'--limit',200,'--seed',3,'--out'
    assert psm_pretrain(*args, tmp_path/'1').returncode==0
    assert command(capsys, *on_mac(args), tmp_path/'2')[0]==0
    a,b = (pd.read_csv(tmp_path/i/'history.csv').drop(columns='seconds') for i in '12')
    pd.testing.assert_frame_equal(a, b)

@pytest.fixture
def folder(tmp_path):
    return digit_files(tmp_path/'images', 12)

@pytest.mark.parametrize('args,says', [
    (['digits','--rule','bank','--trust','.1'], "The rule of mining 'bank' has no trust"),
    (['digits','--views','photo'], 'These views change colours and need 3 channels'),
    (['digits','--arch','vit_b_16'], 'vit_b_16 does not have the weights of a convolution first'),
    (['EMPTY'], 'No images in'),
    (['ALIKE','--eval','linear'], '--eval linear needs two classes, and all of these images are a'),
    (['BROKEN'], "1 of 13 images can't be read: broken.png"),
])
def test_what_cannot_work_is_one_line_and_exit_code_2(folder, tmp_path, capsys, args, says):
    if args==['EMPTY']: args = [tmp_path/'empty']; args[0].mkdir()
    if args[0]=='ALIKE':
        args = [folder/'t.csv',*args[1:]]
        args[0].write_text('name,label\n' + ''.join(f'{f.name},a\n' for f in folder.glob('*.png')))
    if args==['BROKEN']: args = [folder]; (folder/'broken.png').write_text('no image')
    with warnings.catch_warnings(record=True) as told: code,out,err = command(capsys, *on_mac(args), '--out', tmp_path/'run')
    assert code==2 and says in err and err.count('\n')==1
    assert not [w for w in told if issubclass(w.category, UserWarning)]        # a shell would show them too
    assert all(' images: ' in line for line in out.splitlines())        # what was found, at most
    assert not (tmp_path/'run').exists()

def test_checkpoints_of_the_user_stay(tmp_path):
    (tmp_path/'checkpoint_mine.pth').write_text('of the user')
    pretrain.psm_pretrain('digits', epochs=1, limit=100, device='cpu', out=tmp_path)
    assert {f.name for f in tmp_path.glob('*.pth')}=={'checkpoint.pth','checkpoint_mine.pth'}
    assert (tmp_path/'checkpoint_mine.pth').read_text()=='of the user'

def test_tables_and_comparisons(folder, tmp_path, monkeypatch):
    "A table of names alone has no labels; a method to compare with has its own momentum"
    pd.DataFrame(dict(name=[f.name for f in folder.iterdir()])).to_csv(folder/'names.csv', index=False)
    momenta,make = [],pretrain.psm_learner
    def spy(dls, arch, cbs, **kwargs):
        momenta.append(cbs.settings['momentum'])
        return make(dls, arch, cbs=cbs, **kwargs)
    monkeypatch.setattr(pretrain, 'psm_learner', spy)
    learn = pretrain.psm_pretrain(str(folder/'names.csv'), epochs=1, size=24, method='byol', compare='psm', device='cpu',
                                  out=tmp_path/'run')
    assert momenta==[(.99,1.),.5] and learn.dls.train.bs==10 and not getattr(learn.dls, 'vocab', None)

def test_a_comparison_shares_what_both_take(tmp_path):
    pretrain.psm_pretrain('digits', epochs=1, limit=100, temp=.5, n_pos=7, n_neg=40, a=2., compare='ppsm', device='cpu', out=tmp_path)
    used = json.loads((tmp_path/'run.json').read_text())['settings']
    assert {n: (s['temp'],s['n_pos'],s['n_neg']) for n,s in used.items()}=={'PSM': (.5,7,40), 'PPSM': (.5,7,None)}

@pytest.mark.parametrize('name,given,has,lacks', [
    ('PSM', dict(), dict(rule='index', trust='auto', refresh=5, n_neg=None), ['soft_temp']),
    ('PSM', dict(trust=.1, refresh=3), dict(rule='index', trust=.1, refresh=3, n_neg=None), ['soft_temp']),
    ('PSM', dict(rule='bank', soft_temp=.2), dict(rule='bank', soft_temp=.2, n_neg=256), ['trust','refresh']),
    ('PSM from the bank', dict(method='from_bank', n_pos=5), dict(rule='bank', n_pos=5, n_neg=256, soft_temp=.1), ['trust','refresh']),
], ids=['default','trust','bank','from_bank'])
def test_the_rule_of_mining_is_recorded(name, given, has, lacks, tmp_path):
    "With the recipe's own settings, those that the rule has"
    learn = pretrain.psm_pretrain('digits', epochs=1, limit=100, device='cpu', out=tmp_path, **given)
    run = json.loads((tmp_path/'run.json').read_text())
    used = run['settings'][name]
    assert {n: used[n] for n in has}==has and not {*lacks} & {*used}
    assert used==dict(learn.psm.settings, bank_size=100)
    assert run['psm']==dict({n: v for n,v in given.items() if n!='method'}, momentum=.98)
    assert ('trusted' in pd.read_csv(tmp_path/'history.csv'))==(has['rule']=='index')==(learn.model.loss.index is not None)

@pytest.mark.parametrize('method,name,n_neg', [('from_bank','PSM from the bank',256), ('pnsm','PNSM',256), ('moco','MoCo',None)])
def test_an_option_that_was_not_given_leaves_the_methods_own_default(method, name, n_neg, tmp_path, capsys):
    "The number of negatives too, for which None is a value"
    args = 'digits','--epochs',1,'--limit',60,'--eval','none','--method',method,'--out',tmp_path
    code,_,err = command(capsys, *on_mac(args))
    assert code==0, err
    assert json.loads((tmp_path/'run.json').read_text())['settings'][name]['n_neg']==n_neg

def test_a_comparison_of_two_rules_takes_what_each_has(tmp_path):
    pretrain.psm_pretrain('digits', epochs=1, limit=100, method='from_bank', soft_temp=.3, n_pos=5, compare='psm', device='cpu',
                          out=tmp_path)
    used = json.loads((tmp_path/'run.json').read_text())['settings']
    assert used['PSM from the bank']['soft_temp']==.3 and 'soft_temp' not in used['PSM']
    assert [u['n_pos'] for u in used.values()]==[5,5] and used['PSM']['refresh']==5

@pytest.mark.posix
def test_names_need_not_be_text(tmp_path):
    "Folders of old archives are named in other encodings"
    for d in (b'caf\xe9', b'b'):
        digit_files(Path(os.fsdecode(os.fsencode(tmp_path/'images')+b'/'+d)), 8)
    pretrain.psm_pretrain(str(tmp_path/'images'), epochs=1, size=24, device='cpu', out=tmp_path/'run')
    assert json.loads((tmp_path/'run/run.json').read_text())['finished']
    assert unpacked(tmp_path/'run/neighbours.html')['vocab']==['b','caf\udce9']

@pytest.mark.parametrize('opt', ['sgd','larc','rmsprop'])
def test_momentum_stays_where_gradients_pile_up(opt, tmp_path):
    learn = pretrain.psm_pretrain('digits', epochs=1, limit=100, opt=opt, lr=1e-4, device='cpu', out=tmp_path)
    assert {*learn.recorder.hps['mom']}=={.9} and 'average_grad' in [getattr(cb, '__name__', '') for cb in learn.opt.cbs]

def test_resnets_have_their_recipe(tmp_path, capsys):
    "It is printed and recorded, gives way to what is asked for, and goes into fewer parts where batches are small"
    digit_files(tmp_path/'images', 50)
    def run(out, **kwargs):
        learn = pretrain.psm_pretrain(str(tmp_path/'images'), arch='cifar_resnet18', epochs=1, size=8, device='cpu', out=tmp_path/out,
                                      **kwargs)
        return learn,json.loads((tmp_path/out/'run.json').read_text()),capsys.readouterr().out
    learn,r,said = run('a', bs=32)
    assert [r[n] for n in ('opt','lr','wd','warmup')]==['sgd',.06,5e-4,5]
    assert [r['settings']['PSM'][n] for n in ('temp','split_bn','momentum')]==[.1,2,.99]
    assert 'Recipe for ResNets: sgd, lr 0.06 after 0.25 of 1 epochs, wd 0.0005, batches of 32, temp 0.1, split_bn 2, momentum 0.99' in said
    assert {*learn.recorder.hps['mom']}=={.9} and learn.opt.hypers[0]['wd']==5e-4
    learn,r,_ = run('b', lr=.01, temp=.3, compare='byol')
    assert r['lr']==.01 and [r['settings']['PSM'][n] for n in ('temp','split_bn')]==[.3,1] and r['settings']['BYOL']['split_bn']==1
    learn,r,said = run('c', opt='adam')
    assert [r[n] for n in ('opt','lr','wd','warmup')]==['adam',.003,.01,None] and r['settings']['PSM']['temp']==.07 and 'Recipe' not in said

def test_few_steps_take_less_momentum(folder, tmp_path, capsys):
    "The recipe of a folder, if none was given. It is told, and recorded"
    def run(out, **kwargs):
        learn = pretrain.psm_pretrain(str(folder), size=16, device='cpu', out=tmp_path/out, **kwargs)
        recorded = json.loads((tmp_path/out/'run.json').read_text())['settings']['PSM']['momentum']
        return learn.psm.settings['momentum'],recorded,capsys.readouterr().out
    used,recorded,said = run('a', epochs=40)
    assert used==recorded==.75 and 'leaves the momentum network' not in said
    assert 'momentum   0.75, not 0.99, because 40 steps are few. --momentum sets another one' in said
    used,_,said = run('b', epochs=2, momentum=.97)
    assert used==.97 and '--momentum sets' not in said

def test_images_have_the_size_of_their_recipe(folder, tmp_path, monkeypatch):
    seen = []
    def stop(source, size, **kwargs):
        seen.append(size)
        raise ValueError('seen')
    monkeypatch.setattr(pretrain, 'image_dls', stop)
    for how in (dict(), dict(pretrained=True, arch='resnet18'), dict(pretrained=True, arch='resnet18', size=96)):
        with pytest.raises(ValueError, match='seen'): pretrain.psm_pretrain(str(folder), out=tmp_path/'run', **how)
    assert seen==[64,128,96]

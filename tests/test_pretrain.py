"The command as a user meets it"
import subprocess, sys
import pandas as pd, pytest
from pathlib import Path
from psm_fastai.data import digits_dls

def psm_pretrain(*args): return subprocess.run([Path(sys.executable).parent/'psm_pretrain', *map(str,args)], capture_output=True, text=True)

def test_digits_and_moco(tmp_path):
    res = psm_pretrain('digits', '--epochs', 2, '--limit', 300, '--compare', 'moco', '--out', tmp_path/'run')
    assert res.returncode==0, res.stderr
    for line in ('raw pixels', 'untrained', 'PSM', 'MoCo', 'chance'): assert line in res.stdout
    names = {f.name for f in (tmp_path/'run').iterdir()}
    assert names=={'encoder.safetensors','history.csv','history_moco.csv','curves.png','neighbours.html','run.json'}
    h = pd.read_csv(tmp_path/'run/history.csv')
    assert {'epoch','train_loss','valid_loss','purity','false_neg','knn_acc','lr','seconds'} <= set(h.columns) and len(h)==2 and h.notna().all(axis=None)

def test_the_same_seed_gives_the_same_history(tmp_path):
    for i in '12': assert psm_pretrain('digits', '--epochs', 1, '--limit', 200, '--seed', 3, '--out', tmp_path/i).returncode==0
    a,b = (pd.read_csv(tmp_path/i/'history.csv').drop(columns='seconds') for i in '12')
    pd.testing.assert_frame_equal(a, b)

@pytest.fixture
def folder(tmp_path):
    (tmp_path/'images').mkdir()
    for i,(im,_) in enumerate(digits_dls(limit=12).train_ds): im.save(tmp_path/f'images/{i}.png')
    return tmp_path/'images'

@pytest.mark.parametrize('args,says', [
    (['nowhere'], "'nowhere' is neither digits, cifar10 nor cifar100"),
    (['digits','--epochs','0'], '--epochs must be a whole number, at least 1, got 0'),
    (['digits','--lr','-1'], '--lr must be a number, above 0'),
    (['digits','--size','32'], '--size is for folders'),
    (['digits','--bs','9999'], '--bs 9999 is more than the 1347'),
    (['digits','--arch','resnet19'], "Unknown architecture 'resnet19'"),
    (['digits','--compare','simclr'], "--compare takes psm, ppsm, pnsm, moco, nnclr, msf, byol, got 'simclr'"),
    (['EMPTY'], 'No images in'),
    (['BROKEN'], "1 of 13 images can't be read: broken.png"),
])
def test_what_cannot_work_is_one_line_and_exit_code_2(folder, tmp_path, args, says):
    if args==['EMPTY']: args = [tmp_path/'empty']; args[0].mkdir()
    if args==['BROKEN']: args = [folder]; (folder/'broken.png').write_text('no image')
    res = psm_pretrain(*args, '--out', tmp_path/'run')
    assert res.returncode==2 and says in res.stderr and res.stderr.count('\n')==1 and not res.stdout
    assert not (tmp_path/'run').exists()

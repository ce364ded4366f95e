"Images that were decoded once into a file are the right ones, whatever happened in between"
import errno, os, time
import numpy as np, pytest, torch
from concurrent.futures import ThreadPoolExecutor
from fastai.vision.all import Image, Path, set_seed
from psm_fastai import cache, images as images_module
from psm_fastai.all import *
from psm_fastai.cache import ImageCache
from psm_fastai.images import ReadImage
from common import command, quiet, same, state

@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path/'photos'
    folder.mkdir()
    for i in range(20): Image.fromarray(rng.integers(0, 256, (9,12,3), dtype=np.uint8)).save(folder/f'{i}.png')
    return folder

def load(photos, cache=None, **kwargs): return image_dls(photos, cache=cache, **{**dict(size=8, bs=4, device='cpu'), **kwargs})
def images(dls): return torch.cat([b[0] for dl in (dls.train.new(shuffle=False, drop_last=False),dls.valid) for b in dl])

@pytest.fixture
def reads(monkeypatch):
    "The names of the files that are decoded"
    names,pixels = [],ReadImage.pixels
    def spied(self, o):
        names.append(Path(o).name)
        return pixels(self, o)
    monkeypatch.setattr(ReadImage, 'pixels', spied)
    return names

def test_the_same_images_as_in_memory_and_decoded_once(photos, tmp_path, reads, capsys):
    plain = images(load(photos))
    reads.clear()
    for _ in range(2): assert torch.equal(images(load(photos, tmp_path/'cache')), plain)
    assert len(reads)==20
    assert '20 of 20 images come from the cache' in capsys.readouterr().out

def test_another_split_and_a_limit_need_no_other_cache(photos, tmp_path, reads):
    few = load(photos, tmp_path/'cache', limit=5)
    assert len(few.train_ds)==5 and len(reads)==6
    for kw in (dict(seed=1), dict(valid_pct=0), dict(valid_pct=.5)):
        assert torch.equal(images(load(photos, tmp_path/'cache', **kw)), images(load(photos, **kw)))
    assert sorted(reads[:20])==sorted(f.name for f in photos.iterdir())       # each once, until the ones in memory
    assert len([*(tmp_path/'cache').glob('*.npy')])==2

def test_other_settings_have_a_cache_of_their_own_and_the_old_one_is_told(photos, tmp_path, reads, capsys):
    load(photos, tmp_path/'cache')
    load(photos, tmp_path/'cache', fit='pad')
    assert len(reads)==40 and 'also holds up to 0.0 MB of other images or settings, such as photos-8x8-' in capsys.readouterr().out

def test_damaged_and_changed_images_are_decoded_again(photos, tmp_path, reads):
    plain = images(load(photos, tmp_path/'cache'))
    file, = (f for f in (tmp_path/'cache').glob('*.npy') if '.marks' not in f.name)
    with open(file, 'r+b') as f:
        f.seek(-5, 2)
        f.write(b'\0\1\2\3')
    Image.fromarray(np.zeros((9,12,3), np.uint8)).save(photos/'7.png')
    reads.clear()
    again = images(load(photos, tmp_path/'cache'))
    assert sorted(reads)==['7.png','9.png']          # 9.png is the last one by name
    differ = (again!=plain).flatten(1).any(1)
    assert differ.sum()==1 and torch.equal(again, images(load(photos)))

def test_an_interrupted_start_goes_on_where_it_stopped(photos, tmp_path, monkeypatch):
    pixels,done = ReadImage.pixels,[]
    def stops(self, o):
        if len(done)==7: raise KeyboardInterrupt
        done.append(o)
        return pixels(self, o)
    monkeypatch.setattr(images_module.defaults, 'cpus', 1)
    monkeypatch.setattr(ReadImage, 'pixels', stops)
    with pytest.raises(KeyboardInterrupt): load(photos, tmp_path/'cache')
    again = []
    monkeypatch.setattr(ReadImage, 'pixels', lambda self,o: again.append(o) or pixels(self, o))
    assert torch.equal(images(load(photos, tmp_path/'cache')), images(load(photos)))
    assert len({*done, *again[:13]})==20

def test_what_can_not_be_read_is_named_and_the_rest_is_kept(photos, tmp_path, reads):
    (photos/'broken.png').write_text('no image')
    with pytest.raises(ValueError, match="1 of 21 images can't be read: broken.png"): load(photos, tmp_path/'cache')
    Image.fromarray(np.zeros((9,12,3), np.uint8)).save(photos/'broken.png')
    reads.clear()
    load(photos, tmp_path/'cache')
    assert reads==['broken.png']

def test_two_at_once_decode_each_image_once(photos, tmp_path, reads, capsys):
    with ThreadPoolExecutor(2) as ex: both = [*ex.map(lambda _: load(photos, tmp_path/'cache', valid_pct=0), range(2))]
    said = capsys.readouterr().out
    assert len(reads)==20 and 'The cache of the images is' in said and '20 of 20 images come from the cache' in said
    assert torch.equal(images(both[0]), images(both[1])) and torch.equal(images(both[0]), images(load(photos, valid_pct=0)))

def test_refused_before_anything_is_decoded(photos, tmp_path, reads, monkeypatch):
    with pytest.raises(ValueError, match='lies in the folder of images .* Give a folder elsewhere'): load(photos, photos/'.cache')
    with pytest.raises(ValueError, match='0.png is a file. Give a folder'): load(photos, photos/'0.png')
    class Little: free = 10
    monkeypatch.setattr(cache, 'disk_usage', lambda _: Little)
    with pytest.raises(ValueError, match='needs 0.2 MB more, and the disk has 0.0 MB left'): load(photos, tmp_path/'cache', size=64)
    assert not reads and not [*photos.glob('*cache*')]

def test_folders_with_the_same_names_in_them_share_nothing(tmp_path):
    "Neither if the files have the same size and time: one training would get the images of the other"
    for part in 'ab':
        folder = tmp_path/part/'train'
        folder.mkdir(parents=True)
        for i in range(5):
            np.save(folder/f'{i}.npy', np.random.default_rng(ord(part)+i).integers(0, 256, (9,12,3), dtype=np.uint8))
            os.utime(folder/f'{i}.npy', (1,1))
    first,second = (load(tmp_path/part/'train', tmp_path/'cache') for part in 'ab')
    for dls,part in ((first,'a'),(second,'b')): assert torch.equal(images(dls), images(load(tmp_path/part/'train')))

def test_a_folder_has_one_cache_however_it_is_named(photos, tmp_path, reads, monkeypatch):
    monkeypatch.chdir(photos)
    for source in ('.', '../photos', photos, sorted(photos.iterdir()), sorted(f.name for f in photos.iterdir())): load(source, '../cache')
    assert len([*(tmp_path/'cache').glob('photos-8x8-*.npy')])==2 and len(reads)==20

def test_a_folder_with_a_long_name(photos, tmp_path):
    long = photos.rename(tmp_path/('п'*120))
    assert torch.equal(images(load(long, tmp_path/'cache')), images(load(long)))

@pytest.mark.parametrize('marks', [False, True])
@pytest.mark.parametrize('damage', [b'', b'no array', None])
def test_a_damaged_file_is_named(photos, tmp_path, marks, damage):
    plain = images(load(photos, tmp_path/'cache'))
    file, = (f for f in (tmp_path/'cache').glob('*.npy') if ('.marks' in f.name)==marks)
    if damage is None: np.save(file, np.load(file)[:3])
    else: file.write_bytes(damage)
    with pytest.raises(ValueError, match=f'The cache .*{file.name} is damaged: .* Delete this file'): load(photos, tmp_path/'cache')
    file.unlink()
    assert torch.equal(images(load(photos, tmp_path/'cache')), plain)

def test_a_file_that_is_half_made_is_waited_for(photos, tmp_path, monkeypatch):
    make = np.lib.format.open_memmap
    def slowly(path, mode, **kwargs):
        if mode=='w+':
            path.touch()
            time.sleep(.2)
        return make(path, mode=mode, **kwargs)
    monkeypatch.setattr(np.lib.format, 'open_memmap', slowly)
    with ThreadPoolExecutor(2) as ex: both = [*ex.map(lambda _: load(photos, tmp_path/'cache', valid_pct=0), range(2))]
    assert torch.equal(*map(images, both))

def test_a_disk_that_others_fill_is_told(photos, tmp_path, monkeypatch):
    write = cache._write
    def full(a, i, row):
        if i>5: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(a, i, row)
    with monkeypatch.context() as m:
        m.setattr(cache, '_write', full)
        with pytest.raises(ValueError, match='The cache .* needs .* more, and the disk has .* left. Give a folder on another disk'):
            load(photos, tmp_path/'cache')
    assert torch.equal(images(load(photos, tmp_path/'cache')), images(load(photos)))

def test_images_that_replace_others_need_no_room(photos, tmp_path, reads, monkeypatch):
    load(photos, tmp_path/'cache')
    for f in photos.iterdir(): os.utime(f, (1,1))
    class Full: free = 0
    monkeypatch.setattr(cache, 'disk_usage', lambda _: Full)
    load(photos, tmp_path/'cache')
    assert len(reads)==40

def test_training_from_the_cache_is_the_same(photos, tmp_path):
    def trained(**kwargs):
        set_seed(0)
        dls = load(photos, valid_pct=0, num_workers=0, **kwargs)
        learn = quiet(dls, model=small_resnet(), cbs=PSMCallback(bank_size=16, mine_after=0.))
        learn.fit(2, 1e-3)
        return state(learn)
    assert same(trained(), trained(cache=tmp_path/'cache'))

def test_the_command_takes_a_cache(photos, tmp_path, capsys):
    out = tmp_path/'run'
    args = photos,'--size',16,'--epochs',1,'--bs',4,'--cache',tmp_path/'cache','--device','cpu','--out',out
    code,said,err = command(capsys, *args)
    assert code==0 and 'The cache of the images is' in said, err
    assert (out/'encoder.safetensors').exists() or [*out.glob('encoder*')]
    code,_,err = command(capsys, *args, '--from-disk')
    assert code==2 and '--cache decodes images once, and --from-disk in each epoch. Leave out one of them' in err
    code,_,err = command(capsys, 'digits', '--cache', tmp_path/'cache', '--out', tmp_path/'other')
    assert code==2 and '--cache is for image files, and the digits are none' in err

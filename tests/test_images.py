"What a file holds is what is read, whatever a reader takes it for; what can't be read is said, and nothing else is touched"
import os, socket, subprocess, zlib
import numpy as np, pytest, tifffile, torch
from fastai.vision.all import Image, L, Learner, Path, PILImage
from PIL import ImageDraw
from psm_fastai.images import *
from psm_fastai.pretrain import _load, psm_pretrain
from common import *
from data import item, pixels, png16, rng, save_all, small_dls, tif

def save_tif(path, arrays, **kwargs): return save_all(path, arrays, '{}.tif', tif(**kwargs))
def save_npy(path, arrays): return save_all(path, arrays, '{}.npy', np.save)

# a fourth channel

rgbn = np.array([48,82,62,210], np.uint8)+rng.integers(0, 20, (8,8,4), dtype=np.uint8)

@pytest.mark.parametrize('kind', ['assocalpha','unassalpha'])
def test_near_infrared_that_is_marked_as_opacity_stays_a_band(tmp_path, kind, capsys):
    save_tif(tmp_path, [rgbn]*5, photometric='rgb', extrasamples=[kind])
    dls = small_dls(tmp_path)
    assert np.array_equal(item(dls), rgbn) and dls.train.one_batch()[0].shape[1]==4
    said = capsys.readouterr().out
    assert 'The last channel of 5 of 5 images looked at is taken for one like the others, not for opacity: 100% of it' in said
    assert 'channels=3 takes it for opacity' in said
    over = item(small_dls(tmp_path, channels=3))        # who asks for three gets what the file says
    assert over.shape==(8,8,3) and over.min()>60 and 'taken for' not in capsys.readouterr().out

def test_a_band_marked_as_opacity_does_not_weigh_the_others(tmp_path):
    "PIL resizes RGBA with colours multiplied by the opacity"
    a = np.zeros((16,16,4), np.uint8)
    a[:,::2],a[:,1::2] = (200,100,50,1),(0,0,0,180)
    for files,alpha in ((save_tif(tmp_path, [a]*5, photometric='rgb', extrasamples=['unassalpha']),None),
                        (save_all(tmp_path, [a]*5),False)):
        x = reader_for(files, 8, alpha=alpha).pixels(files[0])
        assert np.abs(x[:,4,4].astype(int)-(100,50,25,90)).max()<30, x[:,4,4]

def test_real_opacity_is_told_and_laid_over_the_ground(tmp_path, capsys):
    a = np.full((8,8,4), 200, np.uint8)
    a[...,3] = 255
    a[:4,:,3] = 0
    save_tif(tmp_path, [a]*5, photometric='rgb', extrasamples=['unassalpha'])
    x = item(small_dls(tmp_path))
    assert x.shape==(8,8,3) and x[0,0].tolist()==[255]*3 and x[7,7].tolist()==[200]*3
    assert '5 of 5 images looked at are transparent and are laid over the ground. channels=4' in capsys.readouterr().out
    assert item(small_dls(tmp_path, alpha=False)).shape==(8,8,4) and item(small_dls(tmp_path, channels=4))[0,0,3]==0

def test_bands_are_not_made_up(tmp_path):
    "An RGB file among those of four bands has no near infrared"
    save_tif(tmp_path, [rgbn]*5, photometric='rgb', extrasamples=['unassalpha'])
    Image.fromarray(pixels(8,8,3)).save(tmp_path/'rgb.png')
    with pytest.raises(ValueError, match='1 of 6 .*rgb.png: it has 3 channels, not 4'): small_dls(tmp_path)

# orientation

def turned(a, o):
    im = Image.fromarray(a)
    return np.asarray(im if o==1 else im.transpose({2:Image.Transpose.FLIP_LEFT_RIGHT, 3:Image.Transpose.ROTATE_180,
                                                    4:Image.Transpose.FLIP_TOP_BOTTOM, 5:Image.Transpose.TRANSPOSE,
                                                     6:Image.Transpose.ROTATE_270, 7:Image.Transpose.TRANSVERSE,
                                                     8:Image.Transpose.ROTATE_90}[o]))

@pytest.mark.parametrize('o', range(1,9))
def test_opened_images_stand_as_the_camera_was_held(tmp_path, o):
    a = pixels(16,16,3)
    exif = Image.Exif()
    exif[274] = o
    for ext in ('png','webp','tif','jpg'):
        f = tmp_path/f'a.{ext}'
        Image.fromarray(a).save(f, exif=exif, **(dict(lossless=True) if ext=='webp' else {}))
        want = ReadImage(16).pixels(f)
        if ext!='jpg': assert np.array_equal(want.transpose(1,2,0), turned(a, o)), ext
        with Image.open(f) as im:
            assert np.array_equal(ReadImage(16).pixels(im), want), ext
            if ext!='tif': assert im.getexif()[274]==o                      # the caller's image is left alone
        assert np.array_equal(ReadImage(16).pixels(PILImage.create(f)), want), ext
        assert np.array_equal(ReadImage(16).pixels(f.read_bytes()), want), ext

@pytest.mark.parametrize('o', range(1,9))
def test_orientation_of_what_pil_has_no_mode_for(tmp_path, o):
    a = pixels(8,8,3, hi=65536, dtype=np.uint16)
    a8 = np.rint(a/257).astype(np.uint8)
    tifffile.imwrite(tmp_path/'a.tif', a, photometric='rgb', extratags=[(274,3,1,o,True)])
    assert np.array_equal(ReadImage(8, max_value=65535).pixels(tmp_path/'a.tif').transpose(1,2,0), turned(a8, o))
    exif = Image.Exif()
    exif[274] = o
    png16(tmp_path/'a.png', a, extra=[(b'eXIf',exif.tobytes()[6:])])
    assert np.array_equal(ReadImage(8, max_value=65535).pixels(tmp_path/'a.png').transpose(1,2,0), turned(a8, o))
    b = pixels(5,8,8)
    tifffile.imwrite(tmp_path/'b.tif', b, photometric='minisblack', planarconfig='separate', extratags=[(274,3,1,o,True)])
    assert np.array_equal(ReadImage(8, channels=5).pixels(tmp_path/'b.tif'), np.stack([turned(x, o) for x in b]))

def test_a_turned_jpeg_is_drawn_down_by_its_turned_sides(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((600,800,3), np.uint8)).save(tmp_path/'a.jpg', exif=exif)
    seen = []
    class Looks(ReadImage):
        def _finish(self, raw, o):
            seen.append(raw.im.size)
            return super()._finish(raw, o)
    Looks((10,100))(tmp_path/'a.jpg')
    assert 200<=seen[0][0]<600

@pytest.mark.posix
def test_messages_do_not_act_on_names(tmp_path, capsys):
    name = tmp_path/'\x1b[2J.npy'
    np.save(name, np.arange(700, 716, dtype=np.uint16).reshape(4,4))
    read = reader_for([name], 4)
    read.max_value,read.clipped = 710,[]
    read.pixels(name)
    tell_clipped(read, 1)
    said = capsys.readouterr().out
    assert '1 image of more than 8 bits has values' in said and r'\x1b[2J.npy: ' in said and '\x1b' not in said
    name.unlink()
    os.mkfifo(name)
    with pytest.raises(ValueError, match='is not a file but a pipe') as e: read(name)
    assert '\x1b' not in str(e.value)

# ranges

def test_temperatures_keep_their_grays(tmp_path, capsys):
    save_tif(tmp_path, [rng.integers(29300, 31301, (32,32)).astype(np.uint16) for _ in range(20)])
    dls = small_dls(tmp_path, size=32)
    assert len(np.unique(np.stack([item(dls, i) for i in range(16)])))>240
    assert '20 images of more than 8 bits have values from 29,3' in (said := capsys.readouterr().out)
    assert 'min_value and max_value set another range' in said
    read = dls.train_ds.tls[0].tfms[0]
    assert 29300<=read.min_value<29310 and 31290<read.max_value<=31300

def test_a_hot_pixel_does_not_decide(tmp_path, capsys):
    arrays = [rng.integers(29300, 31301, (32,32)).astype(np.uint16) for _ in range(20)]
    arrays[3][5,5] = 65535
    save_tif(tmp_path, arrays)
    dls = small_dls(tmp_path, size=32)
    read = dls.train_ds.tls[0].tfms[0]
    assert read.min_value>=29300 and read.max_value<=31300
    assert '1 of 20 images have values outside of' in (said := capsys.readouterr().out)
    assert f"The most are in {tmp_path/'3.tif'}: 0.10% of its values" in said
    assert read.pixels(tmp_path/'3.tif')[0,5,5]==255

def test_a_range_of_ones_own(tmp_path, capsys):
    a = np.array([[0,100],[200,400]], np.int16).repeat(4, 0).repeat(4, 1)
    save_tif(tmp_path, [a]*5)
    assert item(small_dls(tmp_path, min_value=100, max_value=200))[::4,::4].tolist()==[[0,0],[255,255]]
    said = capsys.readouterr().out
    assert '5 of 5 images have values outside of 100 to 200, which became black or white' in said and '50.00%' in said
    assert 'more than 8 bits' not in said
    assert item(small_dls(tmp_path, min_value=100))[4,4]==round(300*255/411)
    assert '100 becomes black and 511 white' in capsys.readouterr().out

def test_negative_values_are_found_by_the_look(tmp_path):
    save_tif(tmp_path, [rng.uniform(-20, 300, (16,16)).astype(np.float32) for _ in range(5)])
    x = item(small_dls(tmp_path, size=16))
    assert x.min()<8 and x.max()>247

# arrays

@pytest.mark.parametrize('shape,n', [((32,32,200),200), ((200,32,32),200), ((48,64,6),6), ((6,48,64),6), ((32,32,3),3), ((1,9,9),1)])
def test_channels_of_an_array(tmp_path, shape, n):
    a = pixels(*shape)
    save_npy(tmp_path, [a]*5)
    dls = small_dls(tmp_path)
    assert dls.train.one_batch()[0].shape==(4,n,8,8)
    chw = a if shape[0]==n else a.transpose(2,0,1)
    assert np.array_equal(ReadImage(chw.shape[1:], n).pixels(a), chw)

def test_channels_that_cannot_be_known_are_asked_for(tmp_path):
    save_npy(tmp_path, [pixels(30,40,20)]*5)
    with pytest.raises(ValueError, match=r"can't be known from shapes such as \[30, 40, 20\]: pass channels=30 or channels=20"):
        small_dls(tmp_path)
    assert small_dls(tmp_path, channels=20).train.one_batch()[0].shape==(4,20,8,8)
    assert small_dls(tmp_path, channels=30).train.one_batch()[0].shape==(4,30,8,8)
    with pytest.raises(ValueError, match='pass channels=30 or channels=20'): ReadImage(8)(pixels(30,40,20))

# TIFFs

@pytest.mark.parametrize('mode', ['P','CMYK'])
def test_colours_that_tifffile_does_not_turn_into_rgb_are_refused(tmp_path, mode):
    a = pixels(8,8) if mode=='P' else pixels(8,8,4, hi=65536, dtype=np.uint16)
    kw = dict(photometric='palette', colormap=np.zeros((3,256), np.uint16)) if mode=='P' else dict(photometric='separated')
    tifffile.imwrite(tmp_path/'a.tif', np.stack([a]*2) if mode=='P' else a, **kw)
    with pytest.raises(ValueError, match='whose colours are (PALETTE|SEPARATED): save it as RGB'): ReadImage(8)(tmp_path/'a.tif')

def without_imagecodecs(): return getattr(tifffile.tifffile.imagecodecs, '__name__', '')!='imagecodecs'

def test_packed_tiffs_name_the_extra(tmp_path, capfd):
    a = [Image.fromarray(pixels(8,8)) for _ in range(5)]
    a[0].save(tmp_path/'a.tif', compression='tiff_lzw', save_all=True, append_images=a[1:])
    if without_imagecodecs():
        with pytest.raises(ValueError, match=r"a TIFF packed by LZW, which needs a further package: pip install 'psm_fastai\[tiff\]'"):
            ReadImage(8, 5)(tmp_path/'a.tif')
    else: assert np.array_equal(ReadImage(8, 5).pixels(tmp_path/'a.tif'), np.stack([np.asarray(o) for o in a]))
    for name in ('tiff_lzw','zstd'):
        for b in (pixels(8,8,3),pixels(8,8, hi=4096, dtype=np.uint16)):         # these PIL can read
            Image.fromarray(b).save(tmp_path/'b.tif', compression=name)
            assert np.array_equal(ReadImage(8, max_value=4095).pixels(tmp_path/'b.tif')[0],
                                  b[...,0] if b.ndim==3 else np.rint(b*(255/4095)).astype(np.uint8))
    tifffile.imwrite(tmp_path/'c.tif', pixels(8,8,7), photometric='minisblack', planarconfig='contig')
    ReadImage(8, 7)(tmp_path/'c.tif')
    assert not capfd.readouterr().err

def test_smaller_copies_inside_a_tiff_are_no_bands(tmp_path):
    a = pixels(16,16,3)
    Image.fromarray(a).save(tmp_path/'a.tif', compression='tiff_lzw', save_all=True, append_images=[Image.fromarray(a[::2,::2].copy())])
    assert np.array_equal(ReadImage(16).pixels(tmp_path/'a.tif').transpose(1,2,0), a)

# files that reach out, and claim too much

def test_an_ome_tiff_reads_nothing_else(tmp_path):
    secret = tmp_path/'secret.tif'
    tifffile.imwrite(secret, np.full((8,8), 99, np.uint8))
    (tmp_path/'in').mkdir()
    for name in ('../secret.tif',str(secret)):
        xml = ('<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
               '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" '
               f'SizeC="1" SizeZ="2" SizeT="1"><Channel ID="Channel:0:0"/>'
               f'<TiffData IFD="0" FirstZ="0"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
               f'<TiffData IFD="0" FirstZ="1"><UUID FileName="{name}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>')
        f = tmp_path/'in/a.ome.tif'
        tifffile.imwrite(f, np.full((8,8), 5, np.uint8), description=xml, metadata=None)
        assert tifffile.imread(f).max()==99                                      # what tifffile does
        assert (ReadImage(8, 1).pixels(f)==5).all()

@pytest.mark.parametrize('name', ['a.png','a.eps','a.tif'])
def test_postscript_is_not_run(tmp_path, name, monkeypatch):
    (tmp_path/name).write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n')
    monkeypatch.setattr(subprocess, 'check_call', lambda *a, **k: pytest.fail('a program was started'))
    for o in (tmp_path/name,(tmp_path/name).read_bytes()):
        with pytest.raises(OSError, match='not an image in a format that can be read'): ReadImage(8)(o)

def test_a_tiff_that_claims_to_be_huge_is_refused_before_any_memory_is_asked_for(tmp_path):
    tifffile.imwrite(tmp_path/'h.tif', np.zeros((64,64,3), np.uint16), photometric='rgb', compression='zlib', metadata=None)
    with tifffile.TiffFile(tmp_path/'h.tif', mode='r+') as t:
        for n,v in ((257,60000),(256,60000)): t.pages[0].tags[n].overwrite(v)
    with pytest.raises(ValueError, match='it claims 60,000×60,000 pixels.*If you trust it, pass max_pixels=3600000000'):
        ReadImage(8, max_value=9)(tmp_path/'h.tif')

def test_more_strips_than_the_image_holds(tmp_path):
    "A strip of 64×64 pixels that unpacks to 50 MB"
    f = tmp_path/'a.tif'
    tifffile.imwrite(f, np.zeros((64,64,5), np.uint16), photometric='minisblack', planarconfig='contig', compression='zlib', metadata=None)
    bomb = zlib.compress(bytes(50_000_000), 9)
    with tifffile.TiffFile(f, mode='r+') as t:
        t.pages[0].tags[279].overwrite(len(bomb))
        t.pages[0].tags[273].overwrite(f.stat().st_size)
    with open(f, 'ab') as o: o.write(bomb)
    with pytest.raises(ValueError, match='unpacks to more than the image that it describes'): ReadImage(8, 5, max_value=9)(f)

def test_large_images_come_in_by_request(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    save_all(tmp_path, [pixels(20,20,3)]*5)
    with pytest.raises(ValueError, match=r'5 of 5 .* it claims 20×20 pixels.*pass max_pixels=400'): small_dls(tmp_path)
    for m in (True,False): assert small_dls(tmp_path, max_pixels=400, in_memory=m, num_workers=0).train.one_batch()[0].shape==(4,3,8,8)
    with pytest.raises(ValueError, match='max_pixels must be above 0'): ReadImage(8, max_pixels=0)

def test_the_command_reads_as_it_is_told(tmp_path):
    (tmp_path/'in').mkdir()
    save_all(tmp_path/'in', [pixels(30,20,3) for _ in range(12)])
    with pytest.raises(ValueError, match='it claims 30×20 pixels, more than .* pass max_pixels=600'):
        psm_pretrain(str(tmp_path/'in'), out=str(tmp_path/'out'), max_pixels=599, size=8, epochs=1)
    with pytest.raises(ValueError, match='--max-pixels is for image files'):
        psm_pretrain('digits', out=str(tmp_path/'out'), max_pixels=9, epochs=1)
    dls = _load(tmp_path/'in', dict(fit='pad', ground='black', channels=1, max_pixels=600), size=8, workers=0, in_memory=True, bs=4, seed=0)
    assert item(dls)[:,0].max()==0 and item(dls)[:,3].min()>0

# what is not a file

@pytest.mark.posix
def test_pipes_and_the_like_are_not_opened(tmp_path):
    os.mkfifo(tmp_path/'a.png')
    with pytest.raises(ValueError, match='a.png is not a file but a pipe'): ReadImage(8)(tmp_path/'a.png')
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(tmp_path)
        s.bind('s.png')
        with pytest.raises(ValueError, match='but a socket'): ReadImage(8)('s.png')
    with pytest.raises(ValueError, match='but a device'): ReadImage(8)('/dev/zero')
    with pytest.raises(ValueError, match='but a folder'): ReadImage(8)(tmp_path)

@pytest.fixture
def learn(tmp_path):
    save_all(tmp_path, [pixels(8,8,3) for _ in range(8)])
    return silent(Learner(small_dls(tmp_path), tiny(3)))

def test_nearest_takes_what_can_be_taken(learn):
    known = learn.features()
    file = Path(known.file[2])
    with Image.open(file) as im: im.load()
    def found(o): return learn.nearest(o, n=1, among=known).id.tolist()
    for o in (file, str(file), file.read_bytes(), bytearray(file.read_bytes()), im, np.asarray(im), torch.from_numpy(np.array(im)),
              torch.from_numpy(np.array(im)).permute(2,0,1)):
        assert found(o)==[2]
    for several in ([file,im], (file,im), L(file,im), (o for o in (file,im)), iter([file.read_bytes(),im])): assert found(several)==[2,2]
    for bad,says in ((3,'got int'), ({file},'got set'), (known,'got DataFrame'), ([None,file],'got NoneType'),
                     ('https://example.org/a.png','download it first')):
        with pytest.raises(TypeError, match=says): learn.nearest(bad, among=known)
    with pytest.raises(TypeError, match='what these data read, Path, str, bytes, bytearray, ndarray, Tensor, Image, .*got int'):
        learn.nearest(3, among=known)
    with pytest.raises(ValueError, match='No such file'): learn.nearest('nothing.png', among=known)

def test_nearest_turns_an_opened_photograph(tmp_path, learn):
    known = learn.features()
    with Image.open(known.file[5]) as im: a = np.asarray(im)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(a)).save(tmp_path/'turned.jpg', exif=exif, quality=100, subsampling=0)
    res = [learn.nearest(o, n=8, among=known) for o in (tmp_path/'turned.jpg', Image.open(tmp_path/'turned.jpg'),
                                                        PILImage.create(tmp_path/'turned.jpg'))]
    assert res[0].id[0]==5 and res[0].similarity.tolist()==res[1].similarity.tolist()==res[2].similarity.tolist()

@pytest.mark.posix
def test_nearest_does_not_wait_for_a_pipe(tmp_path, learn):
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(ValueError, match='is not a file but a pipe'): learn.nearest(tmp_path/'pipe', among=learn.features())

# ground and fit

def test_pictures_are_laid_over_a_colour():
    "By the share of the opacity. Only what is transparent changes, and RGBA keeps it"
    rgba = Image.fromarray(rng.integers(0, 256, (9,9,4), dtype=np.uint8))
    clear = [rgba, rgba.convert('LA'), rgba.convert('RGBa'), rgba.quantize(8)]
    for im in (*clear, rgba.convert('L'), rgba.convert('RGB'), rgba.convert('CMYK')):
        a = np.asarray(im.convert('RGBA')).astype(float)
        share = a[...,3:]/255
        got,kept = (np.asarray(laid_over(im, (10,200,30), mode)) for mode in ('RGB','RGBA'))
        assert np.abs(got - (a[...,:3]*share + np.array([10,200,30])*(1-share))).max()<1, im.mode
        assert (kept==a).all() and (share.min()<1)==(im in clear), im.mode
        assert laid_over(im).tobytes()==ReadImage(9).read(im).tobytes()

def test_ground(tmp_path):
    logo = Image.new('RGBA', (8,8), (255,255,255,0))
    ImageDraw.Draw(logo).rectangle((2,2,5,5), fill='white')
    for i in range(5): logo.save(tmp_path/f'{i}.png')
    assert item(small_dls(tmp_path)).min()==255                           # nothing is left of it
    x = item(small_dls(tmp_path, ground='navy'))
    assert x[0,0].tolist()==[0,0,128] and x[3,3].tolist()==[255]*3
    assert item(small_dls(tmp_path, ground=(1,2,3)))[0,0].tolist()==[1,2,3]
    assert item(small_dls(tmp_path, ground='black', channels=1))[0,0]==0

def test_fit(tmp_path):
    a = np.zeros((8,64,3), np.uint8)
    a[:,:8],a[:,-8:] = (255,0,0),(0,0,255)
    save_all(tmp_path, [a]*5)
    assert item(small_dls(tmp_path)).max()==0
    x = item(small_dls(tmp_path, fit='pad', size=64))
    assert x[0,0].tolist()==[255]*3 and x[31,0].tolist()==[255,0,0] and x[31,63].tolist()==[0,0,255] and x[63,0].tolist()==[255]*3
    assert item(small_dls(tmp_path, fit='squish', size=64))[0,0].tolist()==[255,0,0]
    assert item(small_dls(tmp_path, fit='pad', size=8, ground='black', channels=4))[0,0].tolist()==[0,0,0,0]

"What a file holds is what is read, whatever a reader takes it for; what can't be read is said, and nothing else is touched"
import io, os, socket, struct, subprocess, zlib
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

def test_soft_opacity_of_a_png_is_opacity(tmp_path):
    "The format says so, however little of it is full or none"
    save_all(tmp_path, [np.full((8,8,4), (0,0,0,128), np.uint8)]*5)
    assert item(small_dls(tmp_path))[0,0].tolist()==[127]*3

def test_full_opacity_is_not_worth_a_word(tmp_path, capsys):
    for i in range(5): Image.fromarray(pixels(8,8,3)).convert('RGBA').save(tmp_path/f'{i}.png')
    assert item(small_dls(tmp_path)).shape==(8,8,3) and not capsys.readouterr().out.count('transparent')

def test_an_array_with_opacity_by_request():
    a = np.full((8,8,4), 255, np.uint8)
    a[...,3] = 0
    a[...,:3] = 0
    assert ReadImage(8, alpha=True).pixels(a)[:,0,0].tolist()==[255]*3
    with pytest.raises(ValueError, match='it has 4 channels, not 3'): ReadImage(8).pixels(a)

def test_two_channels_stay_two(tmp_path):
    a = pixels(8,8,2)
    Image.fromarray(a, 'LA').save(tmp_path/'a.png')
    assert np.array_equal(ReadImage(8, channels=2).pixels(tmp_path/'a.png'), a.transpose(2,0,1))

def test_bands_are_not_made_up(tmp_path):
    "An RGB file among those of four bands has no near infrared"
    save_tif(tmp_path, [rgbn]*5, photometric='rgb', extrasamples=['unassalpha'])
    Image.fromarray(pixels(8,8,3)).save(tmp_path/'rgb.png')
    with pytest.raises(ValueError, match='1 of 6 .*rgb.png: it has 3 channels, not 4'): small_dls(tmp_path)

def test_premultiplied_colours_are_divided(tmp_path):
    "16 bits, associated: half-transparent red is stored as half red"
    a = np.zeros((8,8,4), np.uint16)
    a[...,0] = a[...,3] = 32768
    tifffile.imwrite(tmp_path/'a.tif', a, photometric='rgb', extrasamples=['assocalpha'])
    assert np.abs(ReadImage(8, max_value=65535).pixels(tmp_path/'a.tif')[:,0,0].astype(int)-(255,127,127)).max()<=1
    assert ReadImage(8, max_value=4095, channels=4).pixels(tmp_path/'a.tif')[3,0,0]==128          # opacity has a range of its own

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

def test_wide_images_that_pil_opened_are_refused(tmp_path):
    png16(tmp_path/'a.png', pixels(8,8,3, hi=4096, dtype=np.uint16))
    with Image.open(tmp_path/'a.png') as im, pytest.raises(ValueError, match='upper 8 of its 16 bits: pass the file'):
        ReadImage(8, max_value=4095)(im)

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

@pytest.mark.parametrize('values,want', [
    (np.arange(4096), (0,4095)), (np.arange(65536), (0,65535)), (np.arange(3000), (0,4095)), (np.full(9, 1000), (0,1023)),
    (np.zeros(9), (0,1)), (np.linspace(0, 1, 999), (0,1)),
    (np.linspace(-5, 300, 9999), (-5,300)), (np.r_[np.linspace(29300, 31300, 999), np.zeros(500)], (29300,31300)),
    (np.r_[np.linspace(3, 300, 999), np.full(500, -9999.)], (0,511)),
    (np.r_[np.linspace(0, 1, 999), np.full(99, -3.4e38), np.full(9, 1e30)], (0,1)), (np.linspace(.2, .21, 999), (.2,.21)),
    (np.full(9, -5), (-5,-4)),
])
def test_the_rule_of_ranges(values, want): assert np.allclose(value_range(values.astype(float)), want)

def test_a_range_of_ones_own(tmp_path, capsys):
    a = np.array([[0,100],[200,400]], np.int16).repeat(4, 0).repeat(4, 1)
    save_tif(tmp_path, [a]*5)
    assert item(small_dls(tmp_path, min_value=100, max_value=200))[::4,::4].tolist()==[[0,0],[255,255]]
    said = capsys.readouterr().out
    assert '5 of 5 images have values outside of 100 to 200, which became black or white' in said and '50.00%' in said
    assert 'more than 8 bits' not in said
    assert item(small_dls(tmp_path, min_value=100))[4,4]==round(300*255/411)
    assert '100 becomes black and 511 white' in capsys.readouterr().out
    with pytest.raises(ValueError, match='max_value must be above min_value, 5, got 5'): ReadImage(8, max_value=5, min_value=5)
    with pytest.raises(ValueError, match='from -1 to 4: pass min_value, the value of black, together with max_value=9'):
        ReadImage(1, 1, max_value=9)(np.array([[-1,4]]))
    assert ReadImage(1, 1, max_value=9, min_value=-1)(np.array([[9]])).getpixel((0,0))==255
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r'25.00% of its values are not finite \(nan or inf\): replace them'):
            ReadImage(2, 1, max_value=9)(np.array([[bad,1],[1,1]]))

def test_negative_values_are_found_by_the_look(tmp_path):
    save_tif(tmp_path, [rng.uniform(-20, 300, (16,16)).astype(np.float32) for _ in range(5)])
    x = item(small_dls(tmp_path, size=16))
    assert x.min()<8 and x.max()>247

@pytest.mark.parametrize('dtype', [np.uint16,np.int16,np.int32,np.uint32,np.float16,np.float32,np.float64,np.int8])
def test_every_type_is_scaled_alike(dtype):
    a = np.array([[10,50],[85,110]], dtype)
    assert ReadImage(2, 1, max_value=110, min_value=10).pixels(a)[0].tolist()==[[0,102],[191,255]]
    assert ReadImage(2, 1, max_value=110, min_value=-15.).pixels(a)[0].tolist()==[[51,133],[204,255]]

# arrays

@pytest.mark.parametrize('shape,n', [((32,32,200),200), ((200,32,32),200), ((48,64,6),6), ((6,48,64),6), ((32,32,3),3), ((1,9,9),1)])
def test_channels_of_an_array(tmp_path, shape, n):
    a = pixels(*shape)
    save_npy(tmp_path, [a]*5)
    dls = small_dls(tmp_path)
    assert dls.train.one_batch()[0].shape==(4,n,8,8)
    chw = a if shape[0]==n else a.transpose(2,0,1)
    assert np.array_equal(ReadImage(chw.shape[1:], n).pixels(a), chw)

def test_the_axis_that_differs_is_not_the_channel(tmp_path):
    save_npy(tmp_path, [pixels(24+i,32,20) for i in range(5)])
    assert small_dls(tmp_path).train.one_batch()[0].shape==(4,20,8,8)
    save_npy(tmp_path, [pixels(40,24+i,32) for i in range(4)]+[pixels(40,30,30)])
    assert small_dls(tmp_path).train.one_batch()[0].shape==(4,40,8,8)

def test_channels_that_cannot_be_known_are_asked_for(tmp_path):
    save_npy(tmp_path, [pixels(30,40,20)]*5)
    with pytest.raises(ValueError, match=r"can't be known from shapes such as \[30, 40, 20\]: pass channels=30 or channels=20"):
        small_dls(tmp_path)
    assert small_dls(tmp_path, channels=20).train.one_batch()[0].shape==(4,20,8,8)
    assert small_dls(tmp_path, channels=30).train.one_batch()[0].shape==(4,30,8,8)
    with pytest.raises(ValueError, match='pass channels=30 or channels=20'): ReadImage(8)(pixels(30,40,20))

@pytest.mark.parametrize('a,says', [(np.zeros((2,2), complex),'complex128, not real numbers'), (np.array([['a']]),'not real numbers'),
                                    (np.zeros((0,3)),r'shape \[0, 3\]'),
                                    (np.zeros((2,2,2,2)),r'shape \[2, 2, 2, 2\]'), (np.zeros((2,2), [('a',int)]),'not real numbers')])
def test_arrays_that_are_no_images(tmp_path, a, says):
    with pytest.raises(ValueError, match=says): ReadImage(8)(a)
    np.save(tmp_path/'a.npy', a)
    with pytest.raises(ValueError, match=says): ReadImage(8)(tmp_path/'a.npy')

# what PIL leaves out

def test_white_as_zero(tmp_path):
    a = pixels(8,8, hi=4096, dtype=np.uint16)
    a.flat[:2] = 0,4095
    for i,(b,kw) in enumerate(((a,{}),(a.astype(np.float32),{}),(a.astype(np.int32),{}),(a,dict(compression='zlib')))):
        f = tmp_path/f'{i}.tif'
        tifffile.imwrite(f, b, photometric='miniswhite', **kw)
        assert np.array_equal(ReadImage(8, 1, max_value=4095).pixels(f)[0], 255-np.rint(a*(255/4095)).astype(np.uint8)), i
    b = pixels(8,8)
    tifffile.imwrite(tmp_path/'b.tif', b, photometric='miniswhite')
    assert np.array_equal(ReadImage(8, 1).pixels(tmp_path/'b.tif')[0], 255-b)
    tifffile.imwrite(tmp_path/'c.tif', np.stack([b]*3), photometric='miniswhite')        # three pages
    assert np.array_equal(ReadImage(8, 3).pixels(tmp_path/'c.tif')[0], 255-b)

def test_one_value_of_a_deep_png_is_transparent(tmp_path):
    for c in (1,3):
        a = pixels(8,8,c, hi=60000, dtype=np.uint16)
        png16(tmp_path/'a.png', a, extra=[(b'tRNS',a[2,3].astype('>u2').tobytes())])
        read = ReadImage(8, c, max_value=65535)
        assert (read.pixels(tmp_path/'a.png')[:,2,3]==255).all() and read.pixels(tmp_path/'a.png')[0,0,0]==round(a[0,0,0]/257)
        assert ReadImage(8, 4, max_value=65535).pixels(tmp_path/'a.png')[3].tolist()==np.where((a==a[2,3]).all(2), 0, 255).tolist()

def test_a_shallow_png_with_one_transparent_value(tmp_path):
    for mode,clear in (('L',7),('RGB',(7,7,7)),('1',0)):
        im = Image.new(mode, (8,8), clear)
        im.save(tmp_path/'a.png', transparency=clear)
        assert (ReadImage(8).pixels(tmp_path/'a.png')==255).all(), mode

@pytest.mark.parametrize('mode', ['P','CMYK'])
def test_colours_that_tifffile_does_not_turn_into_rgb_are_refused(tmp_path, mode):
    a = pixels(8,8) if mode=='P' else pixels(8,8,4, hi=65536, dtype=np.uint16)
    kw = dict(photometric='palette', colormap=np.zeros((3,256), np.uint16)) if mode=='P' else dict(photometric='separated')
    tifffile.imwrite(tmp_path/'a.tif', np.stack([a]*2) if mode=='P' else a, **kw)
    with pytest.raises(ValueError, match='whose colours are (PALETTE|SEPARATED): save it as RGB'): ReadImage(8)(tmp_path/'a.tif')

# packed TIFFs

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

def huge_png(h, w):
    return b'\x89PNG\r\n\x1a\n'+b''.join(struct.pack('>I', len(d))+t+d+struct.pack('>I', zlib.crc32(t+d))
                                         for t,d in ((b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0)),
                                                     (b'IDAT', zlib.compress(bytes(99))),(b'IEND', b'')))
def huge_npy(tmp_path):
    f = io.BytesIO()
    np.lib.format.write_array_header_1_0(f, dict(shape=(60000,60000), fortran_order=False, descr='<f8'))
    return f.getvalue()
def huge_tif(tmp_path, bits=16):
    tifffile.imwrite(tmp_path/'h.tif', np.zeros((64,64,3), np.uint16), photometric='rgb', compression='zlib', metadata=None)
    with tifffile.TiffFile(tmp_path/'h.tif', mode='r+') as t:
        for n,v in ((257,60000),(256,60000)): t.pages[0].tags[n].overwrite(v)
    return (tmp_path/'h.tif').read_bytes()

@pytest.mark.parametrize('make', [lambda p: huge_png(60000, 60000), huge_npy, huge_tif], ids=['png','npy','tif'])
def test_a_huge_claim_is_refused_before_any_memory_is_asked_for(tmp_path, make):
    data = make(tmp_path)
    assert len(data)<20000
    with pytest.raises(ValueError, match='it claims 60,000×60,000 pixels.*If you trust it, pass max_pixels=3600000000'):
        ReadImage(8, max_value=9)(data)

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

@pytest.mark.parametrize('what', ['pickled','cut','text'])
def test_numpy_files_that_are_not_read(tmp_path, what):
    f = tmp_path/'a.npy'
    if what=='pickled': np.save(f, np.array([{}], dtype=object))
    else: np.save(f, np.zeros((8,8)))
    if what=='cut': f.write_bytes(f.read_bytes()[:200])
    if what=='text': f.write_text('no array')
    with pytest.raises((ValueError,OSError), match=dict(pickled='it holds object, not real numbers',
                                                        cut=r'it is truncated: its header says \[8, 8\]',
                                                        text='not an image in a format')[what]):
        ReadImage(8)(f)

def test_odd_contents_are_named(tmp_path):
    with pytest.raises(OSError, match='it is empty'): ReadImage(8)(b'')
    tifffile.imwrite(tmp_path/'a.tif', np.zeros((8,8), np.complex64))
    with pytest.raises(ValueError, match='complex64, not real numbers'): ReadImage(8, max_value=1)(tmp_path/'a.tif')
    tifffile.imwrite(tmp_path/'a.tif', np.zeros((2,3,8,8), np.uint8), photometric='minisblack')
    with pytest.raises(ValueError, match='At most one besides Y and X'): ReadImage(8)(tmp_path/'a.tif')
    for mode in ('LAB','CMYK','YCbCr','HSV','PA','La','RGBa','I;16B','F'):
        assert ReadImage(8, 1, max_value=9)(Image.new(mode, (8,8))).mode=='L'

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

@pytest.mark.parametrize('o,says', [(3,'int'), (None,'NoneType'), ({},'dict'),
                                    *[(o, f'an address on the web, {o}: download it first')
                                      for o in ('https://example.org/a.png','s3://b/a.png','file:///a.png')]])
def test_what_is_no_image_at_all(o, says):
    with pytest.raises(TypeError, match=f"a file's path or its bytes, a PIL image, an array or a tensor, got {says}"): ReadImage(8).read(o)

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
    for ground in ((1,2,3), [1,2,3], '#010203', 'rgb(1,2,3)', tuple(np.array([1,2,3], np.uint8))):
        assert ReadImage(8, ground=ground).settings['ground']==[1,2,3]
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
    with pytest.raises(ValueError, match="fit must be crop, pad or squish, got 'stretch'"): ReadImage(8, fit='stretch')

def test_pad_keeps_a_line(tmp_path):
    "However thin, something of it is left"
    line = np.zeros((2,2000), np.uint8)
    assert ReadImage(8, 1, fit='pad').pixels(line)[0].min()==0
    assert ReadImage((8,6), 5, fit='pad').pixels(np.zeros((5,2,2000), np.uint8)).shape==(5,8,6)

def test_an_array_with_equal_sides_is_told_the_way_out():
    a = np.random.default_rng(0).integers(0, 256, (32,32,32), dtype=np.uint8)
    with pytest.raises(ValueError, match='pass channels=32 if it is the first axis, or transpose the arrays'): ReadImage(32, 3).pixels(a)
    assert (ReadImage(32, 32).pixels(a)==a).all()

@pytest.mark.parametrize('kind', ['ppm','sgi'])
def test_colours_whose_lower_bits_are_lost_are_told(tmp_path, capsys, kind):
    "PIL keeps the upper 8 of 16 bits of these formats"
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 65536, (6,5,3)).astype('>u2')
        if kind=='ppm': data = b'P6 5 6 65535\n' + pixels.tobytes()
        else: data = struct.pack('>hBBHHHHll', 474, 0, 2, 3, 5, 6, 3, 0, 65535).ljust(512, b'\0') + pixels.transpose(2,0,1).tobytes()
        (tmp_path/f'{i}.{kind}').write_bytes(data)
    dls = image_dls(tmp_path, size=5, bs=2, label_col=None, valid_pct=.25, device='cpu')
    assert '4 of 4 images looked at have colours of more than 8 bits' in capsys.readouterr().out
    assert len(dls.train_ds)+len(dls.valid_ds)==4

// Thumbnails: tiles of a few sprites, decoded once and drawn wherever a picture is needed

export class Pictures {
  constructor(view, ready) {
    this.view = view;
    this.waiting = new Set();
    this.loaded = [];
    const { sprites = [] } = view.thumbs ?? {};
    this.done = Promise.all(sprites.map((bytes, s) => this.load(bytes, s))).then(() => {
      this.settled = true;
      for (const paint of this.waiting) paint();
      this.waiting.clear();
      ready();
    });
  }

  async load(bytes, s) {
    try {
      this.loaded[s] = await createImageBitmap(new Blob([bytes]));
    } catch {
      this.loaded[s] = null; // a damaged sprite leaves question marks
    }
  }

  has(i) {
    return (this.view.thumbs?.place[i] ?? -1) >= 0;
  }

  paint(g, i, x, y, size) {
    return i >= 0 && this.paintTile(g, this.view.thumbs?.place[i] ?? -1, x, y, size);
  }

  paintTile(g, tile, x, y, size) {
    if (tile < 0) return false;
    const { px, cols, per_sprite: per } = this.view.thumbs;
    const sprite = this.loaded[Math.floor(tile / per)];
    if (!sprite) return false;
    const at = tile % per;
    // A tile is copied as it is before it is resized: else the edges of its neighbours would be mixed in
    this.one ??= Object.assign(document.createElement('canvas'), { width: px, height: px });
    this.one.getContext('2d').drawImage(sprite, (at % cols) * px, Math.floor(at / cols) * px, px, px, 0, 0, px, px);
    g.imageSmoothingQuality = 'high';
    g.drawImage(this.one, x, y, size, size);
    return true;
  }

  // A canvas that shows a tile as soon as it is there
  show(canvas, tile, size) {
    const side = sideOf(size);
    if (canvas.tile === tile && canvas.width === side) return canvas;
    prepare(canvas, tile, size);
    const paint = () => {
      if (canvas.tile === tile && !this.paintTile(canvas.getContext('2d'), tile, 0, 0, side)) missing(canvas, side);
    };
    if (this.settled) paint();
    else this.waiting.add(paint);
    return canvas;
  }

  // A canvas with an image of any proportions
  showImage(canvas, image, size) {
    prepare(canvas, image, size);
    const side = canvas.width;
    const scale = side / Math.max(image.width, image.height);
    const [w, h] = [image.width * scale, image.height * scale];
    const g = canvas.getContext('2d');
    g.imageSmoothingQuality = 'high';
    g.drawImage(image, (side - w) / 2, (side - h) / 2, w, h);
    return canvas;
  }

  tileOf(i) {
    return i < 0 ? -1 : (this.view.thumbs?.place[i] ?? -1);
  }
}

// Pixels of the screen
const sideOf = (size) => Math.round(size * Math.min(devicePixelRatio || 1, 2));

// An empty square canvas that remembers what it will show
function prepare(canvas, tile, size) {
  const side = sideOf(size);
  Object.assign(canvas, { tile, width: side, height: side });
  canvas.style.width = canvas.style.height = `${size}px`;
}

function missing(canvas, side) {
  const g = canvas.getContext('2d');
  g.fillStyle = '#8886';
  g.fillRect(0, 0, side, side);
  g.fillStyle = '#fff';
  g.font = `${side / 2}px system-ui, sans-serif`;
  g.textAlign = 'center';
  g.textBaseline = 'middle';
  g.fillText('?', side / 2, side / 2);
}

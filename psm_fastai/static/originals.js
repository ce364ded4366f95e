// Images as their files hold them, which a notebook's kernel sends when it is asked. A page has only thumbnails

const REMEMBERED = 40;

export class Originals {
  // `ready` is called whenever an image has come
  constructor(view, model, ready) {
    Object.assign(this, { view, model, ready, asked: new Set(), images: new Map() });
    this.hear = (message, buffers) => this.take(message, buffers);
    model.on('msg:custom', this.hear);
  }

  // The image at a position if it is here. If not, it is asked for
  get(i) {
    if (this.model.send && i >= 0 && !this.asked.has(i)) {
      this.asked.add(i);
      this.model.send({ image: this.view.ids[i] });
    }
    return this.images.get(i);
  }

  async take({ image }, [bytes]) {
    const i = this.view.at.get(image);
    if (i === undefined) return;
    this.images.set(i, await createImageBitmap(new Blob([bytes], { type: 'image/webp' })));
    if (this.images.size > REMEMBERED) this.forget(this.images.keys().next().value);
    this.ready();
  }

  forget(i) {
    this.images.delete(i);
    this.asked.delete(i);
  }

  remove() {
    this.model.off('msg:custom', this.hear);
  }
}


// ---- a page without a kernel: the maps stand in the page, and a small model answers from them

const unpacked = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const data = JSON.parse(document.getElementById("data").textContent);
const seen = (text) => { const held = unpacked(text); return new DataView(held.buffer); };
data.setup.frames = data.setup.frames.map(seen);
data.setup.colours = seen(data.setup.colours);

class Shim {
  constructor(state) { this.state = state; this.listeners = []; this.sheets = new Map(); }
  get(name) { return this.state[name]; }
  set(name, value) { this.state[name] = value; }
  on(event, listener) { this.listeners.push(listener); }
  off(event, listener) { this.listeners = this.listeners.filter((one) => one !== listener); }
  async save_changes() {
    const view = this.state.view, found = await this.answer(view);
    if (this.state.view.id !== view.id) return;
    this.state.answer = { ...found, id: view.id };
    for (const listener of this.listeners) listener();
  }
  async sheet(name) {
    if (!this.sheets.has(name)) {
      const stream = new Blob([unpacked(data.sheets[name])]).stream().pipeThrough(new DecompressionStream("deflate"));
      if (this.sheets.size > 24) this.sheets.delete(this.sheets.keys().next().value);
      this.sheets.set(name, new Response(stream).arrayBuffer());
    }
    return this.sheets.get(name);
  }
  async answer(view) {
    const layer = data.setup.layers.find((one) => one.name === view.layer), words = layer.words ? data.setup.words[view.branch ?? "null"] ?? [] : [];
    const [frames, rows, columns] = layer.keys ? layer.places : [[], [], []], places = frames.length * rows.length * columns.length;
    if (!view.place && !words.includes(view.word)) return { error: "This branch has no prompt of its own." };
    const number = view.place
      ? (frames.indexOf(view.place[0]) * rows.length + rows.indexOf(view.place[1])) * columns.length + columns.indexOf(view.place[2])
      : places + words.indexOf(view.word);
    const whole = await this.sheet([view.layer, view.step, view.branch, view.head].map((part) => part ?? "null").join("|"));
    const numbers = new DataView(whole), size = (sides) => (sides ? sides[0] * sides[1] * sides[2] : 0), count = places + words.length;
    const sides = view.place ? layer.keys : layer.sides;
    const start = 8 * count + (view.place ? number * size(layer.keys) : places * size(layer.keys) + (number - places) * size(layer.sides));
    return { values: new DataView(whole, start, size(sides)), sides, high: numbers.getFloat32(8 * number, true), total: numbers.getFloat32(8 * number + 4, true) };
  }
}

const model = new Shim({ setup: data.setup, view: data.view, answer: { id: -1 } });
render({ model, el: document.getElementById("explorer") });
model.save_changes();

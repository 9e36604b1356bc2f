// The explorer: a video with heat over it. One ESM for anywidget in a notebook and for a page without a kernel.
// The model has `setup` (what there is), `view` (the question, set here) and `answer` (its map as bytes, set by the other side).

const HIDDEN = 255, TOP = 254;

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = `wx-${name}`;
  if (text !== undefined) made.textContent = text;
  return made;
}

const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const told = (value) => (value === 0 ? "0" : value >= 0.01 ? value.toFixed(3) : value.toExponential(1));

// The pixel of each of the 256 bytes of a map, as wanlab.plots.views.rgba computes it.
function palette(answer, scale, colours) {
  const table = new Uint8Array(4 * 256);
  for (let value = 0; value < HIDDEN; value++) {
    const share = Math.min(1, (value / TOP) * (scale ? answer.high / scale : 0)), colour = 3 * Math.floor(share * 255 + 0.5);
    table.set([...colours.subarray(colour, colour + 3), Math.floor(255 * (0.2 + 0.65 * share) + 0.5)], 4 * value);
  }
  return new Uint32Array(table.buffer);
}

// Pixels of a map, its frames one below the other.
function paint(answer, table) {
  const [frames, height, width] = answer.sides, values = bytes(answer.values), pixels = new ImageData(width, frames * height);
  const seen = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < seen.length; i++) seen[i] = table[values[i]];
  return pixels;
}

// Which frame of a map a frame of the video belongs to, as wanlab.plots.views.latent_frame.
function latentFrame(frame, video, frames) {
  if (frames <= 1) return 0;
  if ((video - 1) % (frames - 1) === 0) return Math.ceil((frame * (frames - 1)) / (video - 1));
  return Math.floor((frame * frames) / video);
}

function slider(parent, label, keys, change) {
  const row = element("label", "row"), name = element("span", "name", label), input = element("input"), value = element("output", "value");
  const text = value.appendChild(element("bdi"));                   // cut at its beginning where it does not fit: layers end in what they are
  const hint = element("kbd", "", keys);
  input.type = "range";
  input.dataset.of = label;
  input.min = 0;
  input.addEventListener("input", () => change(Number(input.value)));
  row.append(name, input, value, hint);
  parent.append(row);
  return { show(at, count, now) {
    input.max = Math.max(0, count - 1);
    input.value = at;
    input.disabled = count < 2;
    input.style.setProperty("--done", `${count < 2 ? 0 : (100 * at) / (count - 1)}%`);
    text.textContent = now;
    value.title = now;
  } };
}

// Buttons of which one is pressed. They are made anew only where others are offered: the one that has the keyboard keeps it.
function offer(parent, kind, items, pressed, act) {
  const told = JSON.stringify(items);
  if (parent.dataset.items !== told) {
    parent.dataset.items = told;
    parent.replaceChildren(...items.map((item) => {
      const made = element("button", kind, item ?? "both");
      made.addEventListener("click", () => act(item));
      return made;
    }));
  }
  items.forEach((item, i) => parent.children[i].setAttribute("aria-pressed", item === pressed));
}

function render({ model, el }) {
  const setup = model.get("setup"), colours = bytes(setup.colours), count = setup.frames.length;
  const layers = setup.layers, index = Object.fromEntries(layers.map((layer, i) => [layer.name, i]));
  let view = model.get("view"), answer = model.get("answer"), frame = 0, scale = 0, held = true, kind = "", playing = 0, asked = view.id, opened = false;
  let pixels = null;
  const layer = () => layers[index[view.layer]];

  // ---- what there is to see
  const root = element("div", "explorer");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true";                       // JupyterLab leaves our keys to us
  const stage = element("div", "stage"), picture = element("canvas", "picture"), heat = element("canvas", "heat");
  const mark = element("div", "mark"), readout = element("div", "readout"), strip = element("div", "strip");
  stage.append(picture, heat, mark);
  const side = element("div", "side"), title = element("div", "title", setup.title), question = element("div", "question");
  question.setAttribute("aria-live", "polite");
  const controls = element("div", "controls"), chips = element("div", "chips"), legend = element("div", "legend");
  const hint = element("span", "hint"), list = element("div", "words");
  chips.append(hint, list);
  const buttons = element("div", "buttons");
  const ramp = element("canvas", "ramp"), low = element("span", "", "0"), top = element("span", "top", "");
  legend.append(low, ramp, top);
  const body = element("div", "body"), left = element("div", "left");
  left.append(stage, legend, readout);
  side.append(title, question, controls, buttons, chips);
  body.append(left, side);
  root.append(body, strip);
  if (setup.note) root.append(element("div", "note", setup.note));
  el.append(root);

  // All small frames are one canvas, as each is a layer to compose; made grey here, as a filter in CSS is applied at every repaint.
  const video = setup.frames.map((data) => createImageBitmap(new Blob([bytes(data)], { type: "image/jpeg" })));
  const small = element("canvas", "small"), stills = element("canvas"), sheet = element("canvas");
  strip.append(small);
  const thumbs = video.map((one, i) => {
    const thumb = element("button", "thumb");
    thumb.title = `frame ${i + 1}`;
    thumb.append(element("span", "number", String(i + 1)));
    thumb.addEventListener("click", () => show(i));
    strip.append(thumb);
    return thumb;
  });
  let images = [], places = [];
  Object.assign(ramp, { width: TOP + 1, height: 1 });
  const line = new ImageData(TOP + 1, 1), table = palette({ high: 1 }, 1, colours);
  new Uint32Array(line.data.buffer).set(table.subarray(0, TOP + 1));                  // as see-through as the heat, on grey
  ramp.getContext("2d").putImageData(line, 0, 0);

  const at = {
    frame: slider(controls, "frame", "← →", (to) => show(to)),
    step: slider(controls, "step", "[ ]", (to) => ask({ step: layer().steps[to] })),
    layer: slider(controls, "layer", "↑ ↓", (to) => turn(to)),
    head: slider(controls, "head", ", .", (to) => ask({ head: to ? layer().kept[to - 1] : null })),
  };
  const branch = element("div", "row"), choices = element("div", "choices");
  branch.append(element("span", "name", "branch"), choices, element("kbd", "", "b"));
  controls.append(branch);

  function button(name, key, act, tip) {
    const made = element("button", "button", name);
    made.dataset.act = name;
    made.title = tip;
    made.append(element("kbd", "", key));
    made.addEventListener("click", act);
    buttons.append(made);
    return made;
  }
  const play = button("play", "space", () => run(!playing), "play the frames");
  const hold = button("hold scale", "l", () => { held = !held; fit(!held); }, "keep the colour scale while step, branch, head and patch change");
  button("fit", "f", () => fit(true), "fit the colour scale to this map");
  const bare = button("overlay", "o", () => { root.classList.toggle("wx-bare"); repaint(); show(frame); lay(); }, "show or hide the heat");

  // ---- questions and answers
  function ask(change) {
    const next = { ...view, ...change }, of = layers[index[next.layer]];
    if (!of.steps.includes(next.step)) next.step = of.steps[Math.min(of.steps.length - 1, Math.max(0, of.steps.indexOf(view.step)))];
    if (!of.branches.includes(next.branch)) next.branch = of.branches[0];
    if (next.head !== null && !of.kept.includes(next.head)) next.head = null;
    const words = of.words ? setup.words[next.branch ?? "null"] ?? [] : [];
    if (next.word !== null && !words.includes(next.word)) next.word = null;
    if (next.place === null && next.word === null) {
      if (of.keys) next.place = of.sides.map((count) => Math.floor(count / 2));
      else if (words.length) next.word = words[0];
      else next.branch = of.branches.find((one) => (setup.words[one ?? "null"] ?? []).length) ?? next.branch, next.word = (setup.words[next.branch ?? "null"] ?? [null])[0];
    }
    if (next.word !== null) next.place = null;
    else if (!of.keys) { next.place = null; next.word = words[0] ?? null; }
    if (next.place) next.place = next.place.map((to, i) => Math.min(to, of.sides[i] - 1));
    if (next.place && of.places) next.place = next.place.map((to, i) => nearest(of.places[i], to));
    view = { ...next, id: ++asked };
    root.dataset.asked = performance.now();
    model.set("view", view);
    model.save_changes();
    // JupyterLab sends "busy" before the answer, and TCP holds the answer back until that was acknowledged, up to 40 ms later
    // (Nagle's algorithm against delayed acknowledgements). Anything sent meanwhile carries the acknowledgement along.
    setTimeout(() => model.send?.({ waiting: asked }), 4);
    controlsNow();
  }

  const nearest = (held, to) => held.reduce((best, one) => (Math.abs(one - to) < Math.abs(best - to) ? one : best), held[0]);

  function turn(to) {
    const next = layers[to], old = layer();
    const place = view.place && view.place.map((one, i) => Math.floor(((one + 0.5) * next.sides[i]) / old.sides[i]));
    ask({ layer: next.name, place });
  }

  // Python, or the same explorer shown elsewhere, asks for something else.
  function followed() {
    if (model.get("view").id === view.id) return;
    view = model.get("view");
    asked = view.id;
    controlsNow();
  }

  function answered() {
    const begun = performance.now();
    answer = model.get("answer");
    if (answer.id !== view.id) return;
    question.classList.toggle("wx-wrong", Boolean(answer.error));
    if (answer.error) { question.textContent = answer.error; return; }
    const now = `${view.layer} ${view.word === null ? "place" : "word"}`;
    if (!held || now !== kind) scale = answer.high;
    kind = now;
    if (!opened) open();
    repaint();
    if (root.dataset.asked) {
      const since = Number(root.dataset.asked), { id, spent } = answer;       // what a change takes, in ms; read by tests and benchmarks
      requestAnimationFrame(() => setTimeout(() => {                          // after the frame that has it
        Object.assign(root.dataset, { lag: performance.now() - since, kernel: spent ?? 0, paint: performance.now() - begun, painted: id });
      }));
    }
  }

  // Begin at the frame of the patch that is asked, or where a word is read most.
  function open() {
    opened = true;
    const values = bytes(answer.values), frames = answer.sides[0], size = values.length / frames;
    const most = view.place ? view.place[0] : Math.floor(values.reduce((best, one, i) => (one < HIDDEN && (one > values[best] || values[best] === HIDDEN) ? i : best), 0) / size);
    const of = view.place ? layer().sides[0] : frames;
    show(Math.max(0, thumbs.findIndex((_, i) => latentFrame(i, count, of) === most)));
  }

  function fit(now) {
    if (now && answer.id !== view.id) kind = "";                     // to the map that was asked for and is not here yet
    else if (now && !answer.error) scale = answer.high;
    repaint();
  }

  // ---- painting
  // Where the small frames stand, in pixels of the screen.
  function lay() {
    const fine = window.devicePixelRatio || 1, last = thumbs[count - 1];
    const wide = Math.max(...thumbs.map((one) => one.offsetLeft + one.offsetWidth)), high = last.offsetTop + last.offsetHeight;
    if (!wide || !high) return;                                     // hidden
    places = thumbs.map((one) => [one.offsetLeft, one.offsetTop, one.offsetWidth, one.offsetHeight].map((at) => Math.round(at * fine)));
    for (const canvas of [small, stills]) Object.assign(canvas, { width: Math.round(wide * fine), height: Math.round(high * fine) });
    Object.assign(small.style, { width: `${wide}px`, height: `${high}px` });
    const context = stills.getContext("2d");
    places.forEach((place, i) => still(context, images[i], place));
    overlaySmall();
  }

  // A frame of the video; grey, so that the heat alone has colours.
  function still(context, image, place) {
    if (!image) return;
    context.drawImage(image, ...place);
    if (root.classList.contains("wx-bare")) return;
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#888";
    context.fillRect(...place);
    context.globalCompositeOperation = "source-over";
  }

  function overlaySmall() {
    const context = small.getContext("2d");
    context.clearRect(0, 0, small.width, small.height);
    context.drawImage(stills, 0, 0);
    if (!pixels || root.classList.contains("wx-bare")) return;
    const [frames, height, width] = answer.sides;
    Object.assign(sheet, { width, height: frames * height });
    sheet.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    places.forEach((place, i) => {
      if (frames > 1 || count === 1 || i === 0) context.drawImage(sheet, 0, latentFrame(i, count, frames) * height, width, height, ...place);
    });
  }

  const onImage = () => layer().image && view.word === null;         // keys that are the first image, and no frames
  function overlay() {
    const [frames, height, width] = answer.sides, context = heat.getContext("2d"), top = latentFrame(frame, count, frames) * height;
    if (heat.width !== width || heat.height !== height) Object.assign(heat, { width, height });
    if (frames === 1 && count > 1 && frame > 0) context.clearRect(0, 0, width, height);
    else context.putImageData(pixels, 0, -top, 0, top, width, height);
  }

  function repaint() {
    if (!answer || answer.error || !answer.values) return;
    pixels = paint(answer, palette(answer, scale, colours));
    overlay();
    overlaySmall();
    top.textContent = `${answer.high > scale * 1.0001 ? "≥ " : ""}${told(scale)}`;
    hold.setAttribute("aria-pressed", held);
    bare.setAttribute("aria-pressed", !root.classList.contains("wx-bare"));
    const share = `${(100 * answer.total).toFixed(answer.total < 0.1 ? 1 : 0)} %`;
    question.replaceChildren();
    if (view.word !== null) {
      question.append(element("b", "", `“${view.word}”`), ` takes ${share} of a patch’s attention on average`);
    } else {
      const [f, h, w] = view.place;
      const from = layer().sides[0] > 1 ? `${framesOf(f)}, ` : "";
      question.append(element("b", "", `Patch ${from}row ${h + 1}, column ${w + 1}`),
        ` puts ${share} of its attention on ${onImage() ? "the first image (shown on frame 1)" : "the patches shown"}`);
    }
    explain();
    placeMark();
    root.dataset.shown = JSON.stringify([frame, scale]);
  }

  // Frames of the video to which one of a layer belongs, in words.
  function framesOf(f) {
    const own = thumbs.map((_, i) => i).filter((i) => latentFrame(i, count, layer().sides[0]) === f).map((i) => i + 1);
    return own.length > 1 ? `frames ${own[0]}–${own[own.length - 1]}` : `frame ${own[0]}`;
  }

  // What the colours are, while the mouse asks for nothing.
  function explain() {
    readout.textContent = `Colour: share of ${view.word === null ? "the" : "a"} patch’s attention`;
  }

  function placeMark() {
    const sides = layer().sides, place = view.place;
    const here = place && latentFrame(frame, count, sides[0]) === place[0] && (sides[0] > 1 || frame === 0);
    mark.hidden = !here;
    if (here) {
      Object.assign(mark.style, { left: `${(100 * place[2]) / sides[2]}%`, top: `${(100 * place[1]) / sides[1]}%`,
        width: `${100 / sides[2]}%`, height: `${100 / sides[1]}%` });
    }
    thumbs.forEach((thumb, i) => {
      thumb.classList.toggle("wx-here", i === frame);
      thumb.classList.toggle("wx-asked", Boolean(place) && latentFrame(i, count, sides[0]) === place[0] && (sides[0] > 1 || i === 0));
    });
  }

  function controlsNow() {
    const of = layer(), step = of.steps.indexOf(view.step);
    at.frame.show(frame, count, `${frame + 1} / ${count}`);
    at.step.show(step, of.steps.length, view.step === null ? "outside the loop" : `${view.step}`);
    at.layer.show(index[of.name], layers.length, of.name);
    at.head.show(view.head === null ? 0 : of.kept.indexOf(view.head) + 1, of.kept.length + 1, view.head === null ? `mean of ${of.heads}` : `${view.head}`);
    offer(choices, "choice", of.branches, view.branch, (branch) => ask({ branch }));
    const words = of.words ? setup.words[view.branch ?? "null"] ?? [] : [];
    hint.textContent = words.length ? "Where a word is read:" : of.words
      ? "This branch has no prompt of its own." : "Click a patch to see what it attends to. This layer reads no words.";
    offer(list, "chip", words, view.word, (word) => ask({ word: word === view.word && layer().keys ? null : word }));
    stage.classList.toggle("wx-ask", Boolean(of.keys));
  }

  function show(to) {
    frame = (to + count) % count;
    video[frame].then((image) => {
      if (picture.width !== image.width || picture.height !== image.height) { picture.width = image.width; picture.height = image.height; }
      still(picture.getContext("2d"), image, [0, 0, image.width, image.height]);
    });
    at.frame.show(frame, count, `${frame + 1} / ${count}`);
    if (answer && answer.values && pixels) { overlay(); root.dataset.shown = JSON.stringify([frame, scale]); }
    placeMark();
  }

  function run(on) {
    clearInterval(playing);
    playing = on ? setInterval(() => show(frame + 1), 1000 / setup.fps) : 0;
    play.setAttribute("aria-pressed", Boolean(playing));
    play.firstChild.textContent = playing ? "pause" : "play";
  }

  function patch(event, sides) {
    const box = stage.getBoundingClientRect();
    const cut = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    return [cut((event.clientY - box.top) / box.height, sides[1]), cut((event.clientX - box.left) / box.width, sides[2])];
  }
  stage.addEventListener("click", (event) => {
    if (!layer().keys) return;
    ask({ place: [latentFrame(frame, count, layer().sides[0]), ...patch(event, layer().sides)], word: null });
  });
  stage.addEventListener("mousemove", (event) => {
    if (!answer || !answer.values) return;
    const [frames, height, width] = answer.sides, [h, w] = patch(event, answer.sides);
    if (frames === 1 && frame > 0 && count > 1) { explain(); return; }
    const value = bytes(answer.values)[(latentFrame(frame, count, frames) * height + h) * width + w];
    readout.textContent = `row ${h + 1}, column ${w + 1}: ${value === HIDDEN ? "cannot be attended to" : told((value / TOP) * answer.high)}`;
  });
  stage.addEventListener("mouseleave", explain);

  const move = (held, now, by) => held[Math.max(0, Math.min(held.length - 1, held.indexOf(now) + by))];
  const keys = {
    ArrowLeft: () => show(frame - 1), ArrowRight: () => show(frame + 1),
    ArrowUp: () => turn(Math.max(0, index[view.layer] - 1)), ArrowDown: () => turn(Math.min(layers.length - 1, index[view.layer] + 1)),
    "[": () => ask({ step: move(layer().steps, view.step, -1) }), "]": () => ask({ step: move(layer().steps, view.step, 1) }),
    ",": () => ask({ head: move([null, ...layer().kept], view.head, -1) }), ".": () => ask({ head: move([null, ...layer().kept], view.head, 1) }),
    b: () => ask({ branch: layer().branches[(layer().branches.indexOf(view.branch) + 1) % layer().branches.length] }),
    " ": () => run(!playing), l: () => hold.click(), f: () => fit(true), o: () => bare.click(),
  };
  root.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });

  model.on("change:view", followed);
  model.on("change:answer", answered);
  controlsNow();
  show(0);
  answered();
  Promise.all(video).then((all) => {
    images = all;
    strip.style.setProperty("--shape", `${all[0].width} / ${all[0].height}`);
    lay();
  });
  const sizes = new ResizeObserver(lay);
  sizes.observe(strip);
  return () => { clearInterval(playing); sizes.disconnect(); model.off("change:view", followed); model.off("change:answer", answered); };
}

export default { render };

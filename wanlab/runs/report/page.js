"use strict";
(() => {
  // Sorting: a click on a head sorts by it (numbers: the largest first), the next one reverses, the third brings the order of
  // the study back.
  const table = document.getElementById("table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const number = (row, column) => { const text = row.cells[column].dataset.value; return text === undefined || text === "" ? NaN : Number(text); };
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const states = head.dataset.sort === "text" ? ["none", "ascending", "descending"] : ["none", "descending", "ascending"];
    const state = states[(states.indexOf(head.getAttribute("aria-sort") || "none") + 1) % 3];
    heads.forEach(other => other.removeAttribute("aria-sort"));
    if (state !== "none") head.setAttribute("aria-sort", state);
    const sign = state === "ascending" ? 1 : -1, original = (a, b) => a.dataset.order - b.dataset.order;
    const compare = (a, b) => {
      if (state === "none") return original(a, b);
      if (head.dataset.sort === "text") return sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
      const x = number(a, column), y = number(b, column);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || original(a, b);
      return sign * (x - y) || original(a, b);
    };
    [...body.rows].sort(compare).forEach(row => body.append(row));
  }));

  // Videos: all play in step; after each round every clip starts again together.
  const controls = document.querySelector(".controls");
  if (!controls) return;
  const fps = Number(controls.dataset.fps), all = [...document.querySelectorAll("video")], clips = all.filter(v => v.dataset.name);
  const play = document.getElementById("play"), frame = document.getElementById("frame"), count = document.getElementById("count"), speed = document.getElementById("speed");
  let playing = true, timer = 0, frames = 1;
  const shown = video => video.currentSrc && video.duration;
  const near = new Set();  // clips in sight or almost: only these play, however many the page has
  const active = () => all.filter(video => shown(video) && (near.has(video) || !video.dataset.name));
  const label = index => { frame.value = index + 1; count.textContent = `${index + 1} / ${frames}`; };
  const seek = index => { active().forEach(video => { video.pause(); video.currentTime = Math.min((index + 0.5) / fps, video.duration - 0.01); }); label(index); };
  const round = () => {
    clearTimeout(timer);
    if (!playing) return;
    active().forEach(video => { video.playbackRate = Number(speed.value); video.currentTime = 0; video.play().catch(() => undefined); });
    timer = setTimeout(round, 1000 * (frames / fps / Number(speed.value) + 0.35));
  };
  const pause = () => { playing = false; clearTimeout(timer); play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); active().forEach(video => video.pause()); };
  play.addEventListener("click", () => {
    if (playing) { pause(); return; }
    playing = true; play.textContent = "Pause"; play.setAttribute("aria-pressed", "true"); round();
  });
  frame.addEventListener("input", () => { const index = frame.value - 1; pause(); seek(index); });
  speed.addEventListener("change", round);
  const observer = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) { near.delete(target); target.pause(); continue; }
      near.add(target);
      if (target.preload === "none") { target.preload = "auto"; target.load(); }
      const join = () => { if (!playing) seek(frame.value - 1); };  // while playing it joins the next round
      if (target.readyState >= 1) join(); else target.addEventListener("loadedmetadata", join, { once: true });
    }
  }, { rootMargin: "200px" });
  clips.forEach(clip => observer.observe(clip));
  const first = clips[0];
  if (first) {
    clips.forEach(clip => clip.addEventListener("timeupdate", () => {
      if (playing && active()[0] === clip) label(Math.min(frames - 1, Math.floor(clip.currentTime * fps)));
    }));
    const ready = () => { frames = Math.max(1, Math.round(first.duration * fps)); frame.max = frames; label(0); round(); };
    if (first.readyState >= 1) ready(); else { first.addEventListener("loadedmetadata", ready, { once: true }); first.preload = "auto"; }
  }

  // Comparing: two clips of one sample over each other, with a wipe between them.
  const dialog = document.getElementById("compare"), get = id => document.getElementById(id);
  const wipe = () => { const x = get("wipe").value; get("over").style.clipPath = `inset(0 ${100 - x}% 0 0)`; get("edge").style.left = `${x}%`; };
  const choose = sample => {
    const pick = (select, video, name) => {
      const clip = sample.get(get(select).value);
      get(video).addEventListener("loadeddata", () => { if (!playing) seek(frame.value - 1); }, { once: true });  // the frame that is looked at
      get(video).src = clip.src; get(name).textContent = clip.dataset.name;
    };
    pick("left", "over", "left-name"); pick("right", "under", "right-name"); wipe(); setTimeout(round, 120);
  };
  clips.forEach(clip => clip.addEventListener("click", () => {
    const article = clip.closest(".sample"), sample = new Map([...article.querySelectorAll("video")].map(video => [video.dataset.name, video]));
    get("compare-title").textContent = article.querySelector("h3").firstChild.textContent.trim();
    for (const select of [get("left"), get("right")]) {
      select.replaceChildren(...[...sample.keys()].map(name => new Option(name, name)));
      select.onchange = () => choose(sample);
    }
    get("left").value = sample.has(controls.dataset.baseline) ? controls.dataset.baseline : sample.keys().next().value;
    get("right").value = clip.dataset.name; choose(sample); dialog.showModal();
  }));
  get("wipe").addEventListener("input", wipe);
  // The event comes after the closing: by then the dialog may be open again, for another clip.
  dialog.addEventListener("close", () => { if (!dialog.open) for (const id of ["under", "over"]) { get(id).pause(); get(id).removeAttribute("src"); get(id).load(); } });
})();

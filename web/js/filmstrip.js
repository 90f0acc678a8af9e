// Save Animation: the animation plays; below it its frames side by side, and a slider that holds one of them still in its
// place, with where it lies on the way. It stands in for the editor's own preview, which would show the same once more.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { afterRun, hide, make, show } from "./widget.js";

const NAME = "unclip_filmstrip";
const EDITORS_PREVIEW = "$$comfy_animation_preview";
const THUMB = 48;
const LARGE = 128; // at least; the node's free room below is the picture's
const MOST = 128; // frames; a longer animation is shown by evenly spread ones
const CAN = typeof ImageDecoder !== "undefined"; // else the editor's own preview plays it
const newest = new WeakMap(); // node -> the result that it is to show
const TYPES = { webp: "image/webp", gif: "image/gif" };
const sizes = new WeakMap(); // node -> its size before the editor's preview made it grow
const PATHS = {
  UnCLIPSlerpEmbedding: ["start", "end"],
  UnCLIPSlerpNoise: ["start", "end"],
  UnCLIPTextDiff: ["start_theta", "end_theta"],
};

app.registerExtension({
  name: "unclip.filmstrip",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== "UnCLIPSaveAnimation" || !CAN) return;
    afterRun(nodeType, draw);
    const before = nodeType.prototype.onDrawBackground; // there older nodes take up their preview
    nodeType.prototype.onDrawBackground = function () {
      const [old, size] = [has(this, EDITORS_PREVIEW), [...this.size]];
      const result = before?.apply(this, arguments);
      if (!old && has(this, EDITORS_PREVIEW)) sizes.set(this, size); // it grows as it is drawn next
      if (has(this, NAME)) {
        this.imgs = undefined;
        hide(this, EDITORS_PREVIEW);
      }
      return result;
    };
  },
  nodeCreated(node) {
    if (CAN && node.comfyClass === "UnCLIPSaveAnimation") node.hideOutputImages = true; // of newer nodes
  },
});

function has(node, name) {
  return node.widgets?.some((widget) => widget.name === name) ?? false;
}

async function draw(node, output) {
  const file = output?.images?.[0];
  const type = TYPES[file?.filename?.split(".").pop()];
  if (!type) return;
  newest.set(node, output);
  const query = new URLSearchParams({ filename: file.filename, subfolder: file.subfolder ?? "", type: file.type });
  const answer = await api.fetchApi(`/view?${query}`);
  if (!answer.ok) throw new Error(`${file.filename}: ${answer.status}`);
  const data = await answer.blob();
  const frames = await decode(await data.arrayBuffer(), type, output.frames?.[0]);
  if (!node.graph || newest.get(node) !== output) return; // while its frames came the node left, or ran again
  if (sizes.has(node) && !has(node, NAME)) {
    hide(node, EDITORS_PREVIEW); // it stood there while the frames came
    node.setSize(sizes.get(node));
  }
  const low = frames.pictures.length < 2 ? LARGE : LARGE + THUMB + 40;
  show(node, NAME, strip(frames, api.apiURL(`/view?${query}`), path(node, frames.total)), low, true);
}

/** The first `count` frames (those that go forwards), as canvases, and how many there are. */
async function decode(data, type, count) {
  const decoder = new ImageDecoder({ data, type });
  try {
    await decoder.tracks.ready;
    await decoder.completed; // only then is the number of frames final
    const total = Math.min(count ?? Infinity, decoder.tracks.selectedTrack.frameCount);
    const pictures = [];
    for (let place = 0; place < Math.min(total, MOST); place++) {
      const frameIndex = total > MOST ? Math.round((place * (total - 1)) / (MOST - 1)) : place;
      const { image } = await decoder.decode({ frameIndex });
      pictures.push({ frameIndex, canvas: copy(image, image.displayWidth, image.displayHeight, 2 * LARGE) });
      image.close();
    }
    return { pictures, total };
  } finally {
    decoder.close();
  }
}

function copy(image, width, height, side) {
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function strip({ pictures, total }, address, where) {
  const whole = { width: "100%", height: "100%", objectFit: "contain" };
  const playing = make("img", whole);
  playing.src = address;
  const large = make("div", { flex: "1 1 0", minHeight: `${LARGE}px` }, playing);
  const box = { display: "flex", flexDirection: "column", gap: "4px", height: "100%", color: "var(--p-primary-color, #4a8)" };
  if (pictures.length < 2) return make("div", box, large);

  const words = { fontSize: "11px", color: "var(--input-text, #ddd)", whiteSpace: "nowrap" };
  const caption = make("span", words);
  const button = make("button", { ...words, width: "24px", background: "none", border: "none", cursor: "pointer" });
  const slider = make("input", { flex: "1", minWidth: "0", margin: "0" });
  Object.assign(slider, { type: "range", min: 0, max: pictures.length - 1, step: 1, value: 0 });
  const row = make("div", { display: "flex", overflowX: "auto", gap: "2px", scrollbarWidth: "thin", flex: "none" });
  const thumbs = pictures.map(({ canvas }, place) => {
    const thumb = copy(canvas, canvas.width, canvas.height, THUMB);
    Object.assign(thumb.style, { cursor: "pointer", flex: "none", outlineOffset: "-2px" });
    thumb.onclick = () => hold(place);
    return thumb;
  });
  row.append(...thumbs);

  function mark(place) {
    thumbs.forEach((thumb, other) => (thumb.style.outline = other === place ? "2px solid currentColor" : ""));
    button.textContent = place < 0 ? "❚❚" : "▶";
  }
  function hold(place) {
    const { canvas, frameIndex } = pictures[place];
    slider.value = place;
    Object.assign(canvas.style, whole);
    large.replaceChildren(canvas);
    caption.textContent = `${frameIndex + 1} / ${total}` + (where ? ` · ${where.name} ${where.at(frameIndex).toFixed(2)}` : "");
    mark(place);
  }
  function play() {
    large.replaceChildren(playing);
    caption.textContent = `${total}` + (where ? ` · ${where.name} ${where.at(0).toFixed(2)} … ${where.at(total - 1).toFixed(2)}` : "");
    mark(-1);
  }
  slider.oninput = () => hold(Number(slider.value));
  button.onclick = () => (large.firstChild === playing ? hold(Number(slider.value)) : play());
  play();
  // Dragging the slider must not drag the node.
  for (const kind of ["pointerdown", "mousedown"]) slider.addEventListener(kind, (event) => event.stopPropagation());
  const line = make("div", { display: "flex", alignItems: "center", gap: "6px", flex: "none" }, button, slider, caption);
  return make("div", box, large, row, line);
}

/** Where the frames lie on the nearest Slerp or Text Diff above the node, if its frames are the animation's. */
function path(node, total) {
  const waiting = [node];
  const seen = new Set();
  while (waiting.length) {
    const current = waiting.shift();
    if (!current || seen.has(current.id)) continue;
    seen.add(current.id);
    const names = PATHS[current.comfyClass ?? current.type];
    const value = (name) => Number(current.widgets?.find((widget) => widget.name === name)?.value);
    if (names && value("frames") === total) {
      const [start, end] = names.map(value);
      const name = current.comfyClass === "UnCLIPTextDiff" ? "θ" : "→";
      return { name, at: (frame) => start + ((end - start) * frame) / Math.max(1, total - 1) };
    }
    for (let slot = 0; slot < (current.inputs?.length ?? 0); slot++) waiting.push(current.getInputNode?.(slot));
  }
  return null;
}

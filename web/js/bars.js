// Zero-Shot Classify and Rank by CLIP: bars on the node, most likely or closest first.
import { app } from "../../../scripts/app.js";
import { afterRun, make, show } from "./widget.js";

const ROW = 18;
const GAP = 6; // between pictures
const SHOWN = 8; // rows; more are scrolled to

app.registerExtension({
  name: "unclip.bars",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (["UnCLIPZeroShot", "UnCLIPRankByCLIP"].includes(nodeData.name)) afterRun(nodeType, draw);
  },
});

function draw(node, output) {
  const labels = output?.labels ?? []; // a list for each row of the table, or one for all
  const scores = output?.scores; // cosines; they have no percent
  const table = output?.probabilities ?? scores;
  const written = scores ? (value) => value.toFixed(3) : (value) => `${(100 * value).toFixed(1)} %`;
  if (!labels.length || !table?.length) return;
  const box = make("div", { overflowY: "auto", fontSize: "11px", color: "var(--input-text, #ddd)" });
  let count = 0;
  for (const [place, row] of table.entries()) {
    const names = labels[place] ?? labels[0];
    count += names.length;
    const ranked = names.map((label, column) => [label, row[column]]).sort((a, b) => b[1] - a[1]);
    const gap = box.hasChildNodes() ? `${GAP}px` : "0";
    box.append(make("div", { marginTop: gap }, ...ranked.map(([label, value]) => bar(label, value, written(value)))));
  }
  const height = count * ROW + GAP * (table.length - 1);
  show(node, "unclip_bars", box, Math.min(height, SHOWN * ROW));
}

/** A line as wide as its value in 0..1; what lies below has no bar. */
function bar(label, value, number) {
  const fill = make("div", {
    position: "absolute",
    inset: "1px auto 1px 0",
    width: `${100 * Math.min(Math.max(value, 0), 1)}%`,
    background: "var(--p-primary-color, #4a8)",
    opacity: "0.45",
    borderRadius: "3px",
  });
  const text = { position: "relative", padding: "0 4px", whiteSpace: "nowrap", overflow: "hidden" };
  const name = make("span", { ...text, flex: "1", textOverflow: "ellipsis" }, label);
  const line = make(
    "div",
    { position: "relative", display: "flex", height: `${ROW}px`, lineHeight: `${ROW}px` },
    fill,
    name,
    make("span", text, number),
  );
  line.title = `${label}: ${number}`;
  return line;
}

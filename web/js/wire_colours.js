// A colour for each kind of wire of the pack. A palette of the user's that names one of them wins.
import { app } from "../../../scripts/app.js";

const COLOURS = {
  UNCLIP_CLIP: "#ffd500", // as the editor's own CLIP
  UNCLIP_PRIOR: "#b39ddb",
  UNCLIP_AR_PRIOR: "#7e78d2",
  UNCLIP_DECODER: "#ff6e6e",
  UNCLIP_UPSAMPLER: "#4db6ac",
  UNCLIP_TEXT: "#ffa931",
  UNCLIP_EMBED: "#f06292",
  UNCLIP_NOISE: "#b0b0b0",
};

app.registerExtension({
  name: "unclip.wire_colours",
  setup() {
    const links = app.canvas.constructor.link_type_colors ?? {};
    const sockets = app.canvas.default_connection_color_byType ?? {};
    for (const colours of [links, sockets]) {
      for (const [type, own] of Object.entries(COLOURS)) keep(colours, type, own);
    }
    // The page draws newer nodes as HTML, with the colours of its style sheets.
    const rules = Object.entries(COLOURS).map(([type, own]) => `--color-datatype-${type}: ${own};`);
    const style = document.createElement("style");
    style.textContent = `:root { ${rules.join(" ")} }`;
    document.head.append(style);
    app.canvas.setDirty?.(true, true);
  },
});

/** Each change of the palette writes "" for every type that the palette does not name: then `own` stands. */
function keep(colours, type, own) {
  let chosen = colours[type];
  Object.defineProperty(colours, type, {
    configurable: true,
    enumerable: true,
    get: () => chosen || own,
    set: (colour) => (chosen = colour),
  });
}

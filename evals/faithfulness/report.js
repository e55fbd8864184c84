// Buttons below figures and tables that save them as files; the page works without them, and asks no server.
(() => {
  // gzip in base64; unpacked when the first table is saved
  let texts;
  const unpacked = () => texts ??= new Response(new Blob([Uint8Array.from(atob(document.getElementById("exports").textContent),
    c => c.charCodeAt(0))]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  const style = document.getElementById("figure-style").content.firstElementChild.textContent;
  const said = document.getElementById("said");
  const plain = name => name.replace(/[^\w.()-]+/g, "_").slice(0, 80);
  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    said.textContent = `${name} was saved.`;
  };
  const drawing = svg => {
    const copy = svg.cloneNode(true), [, , width, height] = svg.getAttribute("viewBox").split(" ");
    const own = document.createElementNS("http://www.w3.org/2000/svg", "style");
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    own.textContent = style;
    for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", "#fcfcfa"]]) ground.setAttribute(name, value);
    copy.prepend(own, ground);
    for (const name of ["style", "class"]) copy.removeAttribute(name);
    for (const [name, value] of [["xmlns", "http://www.w3.org/2000/svg"], ["width", width], ["height", height]]) copy.setAttribute(name, value);
    return {text: new XMLSerializer().serializeToString(copy), width: +width, height: +height};
  };
  const png = (svg, scale = 3) => new Promise((done, failed) => {
    const {text, width, height} = drawing(svg), image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = scale * width;
      canvas.height = scale * height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done, "image/png");
    };
    image.onerror = failed;
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  });
  const row = (place, name, kinds) => {
    const line = document.createElement("p");
    line.className = "save";
    line.append("Save as ");
    for (const [kind, act] of kinds) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = kind;
      button.setAttribute("aria-label", `Save ${name} as ${kind}`);
      button.onclick = act;
      line.append(button, " ");
    }
    place.append(line);
  };
  for (const figure of document.querySelectorAll("figure")) {
    const svg = figure.querySelector("svg"), name = figure.querySelector("figcaption").textContent;
    row(figure, name, [
      ["SVG", () => save(new Blob([drawing(svg).text], {type: "image/svg+xml"}), plain(name) + ".svg")],
      ["PNG", async () => save(await png(svg), plain(name) + ".png")],
    ]);
  }
  for (const box of document.querySelectorAll("[data-table]")) {
    const file = box.dataset.table;
    row(box, box.dataset.caption, [["CSV", "csv"], ["LaTeX", "tex"], ["APA", "apa"]].map(([kind, key]) => [kind, async () =>
      save(new Blob([(await unpacked())[file][key]], {type: "text/plain"}), file + (key === "apa" ? ".txt" : "." + key))]));
  }
  window.reportFigure = {drawing, png, unpacked};
})();

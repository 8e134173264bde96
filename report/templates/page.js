"use strict";
// One listener per kind of event for the whole page, whatever the number of pictures.
document.documentElement.classList.add("script");

const elements = (compare) => ({
  frame: compare.querySelector(".frame"), stack: compare.querySelector(".stack"), slider: compare.querySelector("input"),
  before: compare.querySelector(".before"), after: compare.querySelector(".after"),
  left: compare.querySelector(".left"), right: compare.querySelector(".right"), name: compare.querySelector(".name"),
});

// The split is at the slider's share of the visible part of the stack.
function split(compare) {
  const { frame, stack, slider } = elements(compare);
  const at = frame.scrollLeft + frame.clientWidth * slider.value / 100;
  stack.style.setProperty("--split", 100 * at / stack.offsetWidth + "%");
}

function show(compare, side, address) {
  const { before, after, left, right, name } = elements(compare);
  const [select, image] = side === "left" ? [left, before] : [right, after];
  const option = [...select.options].find((one) => one.value === address);
  if (!option) return;
  select.value = address;
  image.src = address;
  image.alt = option.parentElement.label + ": " + option.label;
  if (name) name.textContent = option.parentElement.label;
}

function zoom(compare, factor) {
  const { frame, stack } = elements(compare);
  const before = stack.offsetWidth;
  const middle = [frame.scrollLeft + frame.clientWidth / 2, frame.scrollTop + frame.clientHeight / 2];
  compare.classList.toggle("zoomed", factor > 1);
  stack.style.setProperty("--zoom", factor);
  const grown = stack.offsetWidth / before;
  frame.scrollTo(middle[0] * grown - frame.clientWidth / 2, middle[1] * grown - frame.clientHeight / 2);
  split(compare);
}

// A clicked thumbnail becomes the right picture. The left one is kept unless it belongs to another image. False: not offered.
function choose(thumb) {
  const compare = thumb.closest("article").querySelector("div.compare");
  if (!compare) return false;
  const { left, slider } = elements(compare), address = thumb.getAttribute("href");
  const option = [...left.options].find((one) => one.value === address);
  if (!option) return false;
  const group = option.parentElement;
  if (compare.dataset.grouped && group !== left.selectedOptions[0].parentElement) show(compare, "left", group.children[0].value);
  show(compare, "right", address);
  if (slider.value > 95) slider.value = 50;
  split(compare);
  for (const other of thumb.closest("article").querySelectorAll(".thumb")) other.classList.toggle("current", other === thumb);
  compare.scrollIntoView({ block: "nearest" });
  return true;
}

document.addEventListener("input", (event) => {
  const compare = event.target.closest(".compare");
  if (!compare) return;
  if (event.target.type === "range") split(compare);
  else if (event.target.className === "zoom") zoom(compare, Number(event.target.value));
  else show(compare, event.target.className, event.target.value);
});
document.addEventListener("scroll", (event) => {
  if (event.target.className === "frame") split(event.target.closest(".compare"));
}, true);
// The page of several runs, copied without them, falls back to its embedded copies.
document.addEventListener("error", (event) => {
  const src = event.target.closest?.(".stack") && event.target.getAttribute("src");
  const thumb = [...document.querySelectorAll("a.thumb")].find((one) => one.getAttribute("href") === src);
  const copy = thumb && thumb.firstElementChild.src;
  if (copy && copy.startsWith("data:")) event.target.src = copy;
}, true);
window.addEventListener("resize", () => document.querySelectorAll(".zoomed").forEach(split));

// Dragging on the picture moves the split or, if zoomed, scrolls the picture (the browser does so for touch).
function drag(event) {
  const compare = event.target.closest?.(".compare");
  if (!compare || !event.buttons || !event.target.closest(".frame")) return;
  const { frame, slider } = elements(compare);
  if (!compare.classList.contains("zoomed")) {
    const box = frame.getBoundingClientRect();
    slider.value = 100 * (event.clientX - box.left) / box.width;
    split(compare);
  } else if (event.pointerType === "mouse" && event.type === "pointermove") {
    frame.scrollBy(-event.movementX, -event.movementY);
  }
}
document.addEventListener("pointerdown", (event) => {
  if (event.target.closest?.(".script .frame")) event.target.setPointerCapture(event.pointerId);
  drag(event);
});
document.addEventListener("pointermove", drag);
document.addEventListener("dragstart", (event) => {
  if (event.target.closest(".frame")) event.preventDefault();
});

// A column's heading sorts its table, names in natural order; a second click reverses it. Rows without a figure stay last.
function sort(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const down = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const compareNames = new Intl.Collator(undefined, { numeric: true }).compare;
  const text = (row) => row.cells[column] ? row.cells[column].textContent : "";
  const compare = (a, b) => column === 0 ? compareNames(text(a), text(b)) : parseFloat(text(a)) - parseFloat(text(b));
  const isFigure = (row) => column === 0 || !Number.isNaN(parseFloat(text(row)));
  const rows = [...body.rows], figures = rows.filter(isFigure), others = rows.filter((row) => !isFigure(row));
  body.append(...figures.sort((a, b) => down * compare(a, b)), ...others);
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
}

document.addEventListener("click", (event) => {
  const heading = event.target.closest(".sortable th button");
  if (heading) sort(heading.parentElement);
  const thumb = event.target.closest("a.thumb");
  if (thumb && !event.ctrlKey && !event.metaKey && choose(thumb)) event.preventDefault();
  const cell = event.target.closest("a.cell");
  const first = cell && document.querySelector(cell.getAttribute("href") + " a.thumb");
  if (first) choose(first);
});

"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => head.querySelector("button")?.addEventListener("click", () => {
    const now = head.getAttribute("aria-sort"), up = now ? now === "descending" : head.classList.contains("left");
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[at].dataset.key, number = [...body.rows].every(row => !isNaN(key(row)));
    const order = (one, other) => number ? key(one) - key(other) : key(one).localeCompare(key(other));
    [...body.rows].sort((one, other) => up ? order(one, other) : order(other, one)).forEach(row => body.append(row));
  }));
}
const skew = document.getElementById("skew"), words = document.getElementById("words");
const filter = () => {
  const wanted = words.value.toLowerCase().split(/\s+/);
  for (const row of document.querySelectorAll("#choices tbody tr")) {
    const said = row.textContent.toLowerCase();
    row.hidden = (skew.value !== "" && row.dataset.skew !== skew.value) || !wanted.every(word => said.includes(word));
  }
};
skew?.addEventListener("change", filter);
words?.addEventListener("input", filter);
const condition = document.getElementById("condition");
const choose = () => document.querySelectorAll(".condition").forEach(one => { one.hidden = one.dataset.name !== condition.value; });
condition?.addEventListener("change", choose);
if (condition) choose();
const remedies = [...document.querySelectorAll(".legend button")];
const css = mark => [...mark.classList].filter(name => !["bar", "line", "dim"].includes(name)).join(" ");
remedies.forEach(button => button.addEventListener("click", () => {
  const only = button.getAttribute("aria-pressed") === "true" ? "" : css(button.firstElementChild);
  remedies.forEach(one => one.setAttribute("aria-pressed", only !== "" && css(one.firstElementChild) === only));
  document.querySelectorAll(".panels:not(.tests) :is(circle, .bar, .line):not(.zero)")
    .forEach(mark => mark.classList.toggle("dim", only !== "" && css(mark) !== only));
}));

// Sorting, filtering, and pictures of a label. Without it, the page has the same content.
(function () {
  "use strict";

  // The text of a cell, without what it opens.
  function textOf(cell) {
    return (cell.querySelector("summary") || cell).textContent.trim();
  }

  function value(row, column) {
    var cell = row.cells[column];
    var text = cell.getAttribute("data-sort") || textOf(cell);
    var plain = text.replace(/,/g, "").replace(/^< /, "");
    return plain !== "" && isFinite(plain) ? Number(plain) : text;
  }

  function compare(a, b) {
    var missing = "\u2013";
    if (a === missing || b === missing) return a === b ? 0 : a === missing ? 2 : -2;
    if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : 0;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sort(table, column, descending) {
    var body = table.tBodies[0];
    var rows = Array.prototype.map.call(body.rows, function (row, index) {
      return { row: row, key: value(row, column), index: index };
    });
    rows.sort(function (a, b) {
      var order = compare(a.key, b.key);
      // What is missing stays last in both directions.
      if (Math.abs(order) === 2) return order;
      return (descending ? -order : order) || a.index - b.index;
    });
    rows.forEach(function (each) { body.appendChild(each.row); });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, index) {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    var heads = table.tHead.rows[0].cells;
    var select = document.createElement("select");
    select.className = "sort-by";
    select.setAttribute("aria-label", "Sort the rows");
    select.add(new Option("Sort by …", ""));
    Array.prototype.forEach.call(heads, function (head, column) {
      var name = head.textContent.trim();
      if (!name || head.hasAttribute("data-unsorted")) return;
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () {
        sort(table, column, head.getAttribute("aria-sort") === "ascending");
      });
      select.add(new Option(name + ", ascending", column + ",0"));
      select.add(new Option(name + ", descending", column + ",1"));
    });
    select.addEventListener("change", function () {
      var chosen = select.value.split(",");
      if (chosen.length === 2) sort(table, Number(chosen[0]), chosen[1] === "1");
    });
    var tools = document.createElement("div");
    tools.className = "tools";
    if (table.tBodies[0].rows.length > 24) tools.appendChild(makeFilter(table));
    tools.appendChild(select);
    var frame = table.closest(".scroll");
    frame.parentNode.insertBefore(tools, frame);
  }

  function makeFilter(table) {
    var input = document.createElement("input");
    input.type = "search";
    input.placeholder = "Filter rows";
    input.setAttribute("aria-label", "Show only rows with this text");
    input.addEventListener("input", function () {
      var text = input.value.toLowerCase();
      Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
        row.hidden = textOf(row.cells[0]).toLowerCase().indexOf(text) < 0;
      });
    });
    return input;
  }

  // A row of the label table shows the pictures of its mistakes: those of the matrix.
  function fillRow(details) {
    var place = details.querySelector(".row");
    if (!place || place.childNodes.length) return;
    var label = details.getAttribute("data-label");
    var cells = '.cell[data-label="' + label + '"]:not([data-predicted="' + label + '"]) figure';
    Array.prototype.forEach.call(document.querySelectorAll(cells), function (figure) {
      place.appendChild(figure.cloneNode(true));
    });
  }

  // In a frame without an address, as in Kubeflow's UI, there is no file beside this one: a link would
  // replace the report with a page of the UI.
  if (location.protocol === "about:") {
    Array.prototype.forEach.call(document.querySelectorAll("a[href]"), function (link) {
      link.replaceWith.apply(link, Array.prototype.slice.call(link.childNodes));
    });
  }

  Array.prototype.forEach.call(document.querySelectorAll("table.sortable"), makeSortable);
  document.addEventListener("toggle", function (event) {
    var details = event.target;
    if (!details.open) return;
    if (details.matches(".row-details")) fillRow(details);
    if (!details.matches(".opens")) return;
    // Browsers that do not know `name` leave the others open.
    Array.prototype.forEach.call(document.querySelectorAll(".opens[open]"), function (other) {
      if (other !== details) other.open = false;
    });
  }, true);
  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") return;
    var open = document.querySelector(".opens[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });
})();

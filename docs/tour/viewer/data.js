"use strict";
// Where the page's data come from: the server, or the folder that the page lies in.
const LIVE = document.documentElement.dataset.live === "yes";

const get = async (path, values) => {
  const answer = await fetch(path + "?" + new URLSearchParams(values));
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
};
const server = {
  runs: known => get("data/runs", {known}),
  groups: query => get("data/groups", query),
  group: (run, id) => get("data/group", {run, id}),
};

const arrived = new Map();  // name -> what to do with the content of that file
const loading = new Map();
window.watched = (name, content) => arrived.get(name)(content);
const load = name => {  // a page that was opened as a file may load scripts, and nothing else
  if (!loading.has(name)) {
    loading.set(name, new Promise((resolve, reject) => {
      arrived.set(name, resolve);
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onerror = () => reject(new Error(`data/${name}.js is missing`));
      document.head.append(script);
    }));
  }
  return loading.get(name);
};
const folder = {
  runs: () => load("runs"),
  groups: async query => {
    const view = runs[query.run].views.findIndex(each => each.name === query.view);
    const lists = await load(`list-${query.run}-${view}-${query.step ?? "all"}`);
    const ids = lists.ids[query.only][query.order].slice(query.offset, query.offset + query.limit);
    return {counts: lists.counts, groups: await Promise.all(ids.map(id => folder.group(query.run, id)))};
  },
  group: async (run, id) => (await load(`groups-${run}-${Math.floor(id / runs[run].chunk)}`))[id],
};
const data = LIVE ? server : folder;

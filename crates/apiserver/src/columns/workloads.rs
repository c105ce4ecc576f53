//! What makes pods, and what limits or scales it.

use serde_json::{Value, json};

use super::{
    AGE,
    About::{Field, Words},
    CONTAINERS, IMAGES, NAME, Spec, boolean, duration, integer, text,
    view::View,
    wide,
};

const TEMPLATE_CONTAINERS: &str = "/spec/template/spec/containers";
/// Metrics of an autoscaler that are shown before "+ n more...".
const METRICS_MAX: usize = 2;

pub const POD_TEMPLATE: &[Spec] = &[
    NAME,
    Spec { priority: 0, ..CONTAINERS },
    Spec { priority: 0, ..IMAGES },
    text("Pod Labels", Words("The labels of the template.")),
];

pub fn pod_template(template: &View) -> Vec<Value> {
    let (names, images) = template.containers("/template/spec/containers");
    vec![template.name(), names.into(), images.into(), template.labels("/template/metadata/labels").into()]
}

pub const REPLICATION_CONTROLLER: &[Spec] = &[
    NAME,
    integer("Desired", Field("core.v1.ReplicationControllerSpec", "replicas")),
    integer("Current", Field("core.v1.ReplicationControllerStatus", "replicas")),
    integer("Ready", Field("core.v1.ReplicationControllerStatus", "readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("core.v1.ReplicationControllerSpec", "selector")),
];

pub fn replication_controller(controller: &View) -> Vec<Value> {
    let selector = controller.labels("/spec/selector");
    replicas(controller, selector)
}

pub const REPLICA_SET: &[Spec] = &[
    NAME,
    integer("Desired", Field("apps.v1.ReplicaSetSpec", "replicas")),
    integer("Current", Field("apps.v1.ReplicaSetStatus", "replicas")),
    integer("Ready", Field("apps.v1.ReplicaSetStatus", "readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("apps.v1.ReplicaSetSpec", "selector")),
];

pub fn replica_set(set: &View) -> Vec<Value> {
    let selector = set.selector("/spec/selector", "<none>");
    replicas(set, selector)
}

fn replicas(set: &View, selector: String) -> Vec<Value> {
    let (names, images) = set.containers(TEMPLATE_CONTAINERS);
    vec![
        set.name(),
        set.int("/spec/replicas").into(),
        set.int("/status/replicas").into(),
        set.int("/status/readyReplicas").into(),
        set.age(),
        names.into(),
        images.into(),
        selector.into(),
    ]
}

pub const DEPLOYMENT: &[Spec] = &[
    NAME,
    text("Ready", Words("How many of the desired pods are ready.")),
    text("Up-to-date", Field("apps.v1.DeploymentStatus", "updatedReplicas")),
    text("Available", Field("apps.v1.DeploymentStatus", "availableReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("apps.v1.DeploymentSpec", "selector")),
];

pub fn deployment(deployment: &View) -> Vec<Value> {
    let (names, images) = deployment.containers(TEMPLATE_CONTAINERS);
    vec![
        deployment.name(),
        format!("{}/{}", deployment.int("/status/readyReplicas"), deployment.int("/spec/replicas")).into(),
        deployment.int("/status/updatedReplicas").into(),
        deployment.int("/status/availableReplicas").into(),
        deployment.age(),
        names.into(),
        images.into(),
        deployment.selector("/spec/selector", "").into(),
    ]
}

pub const STATEFUL_SET: &[Spec] =
    &[NAME, text("Ready", Words("How many of the desired pods are ready.")), AGE, CONTAINERS, IMAGES];

pub fn stateful_set(set: &View) -> Vec<Value> {
    let (names, images) = set.containers(TEMPLATE_CONTAINERS);
    let ready = format!("{}/{}", set.int("/status/readyReplicas"), set.int("/spec/replicas"));
    vec![set.name(), ready.into(), set.age(), names.into(), images.into()]
}

pub const DAEMON_SET: &[Spec] = &[
    NAME,
    integer("Desired", Field("apps.v1.DaemonSetStatus", "desiredNumberScheduled")),
    integer("Current", Field("apps.v1.DaemonSetStatus", "currentNumberScheduled")),
    integer("Ready", Field("apps.v1.DaemonSetStatus", "numberReady")),
    integer("Up-to-date", Field("apps.v1.DaemonSetStatus", "updatedNumberScheduled")),
    integer("Available", Field("apps.v1.DaemonSetStatus", "numberAvailable")),
    text("Node Selector", Field("core.v1.PodSpec", "nodeSelector")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("apps.v1.DaemonSetSpec", "selector")),
];

pub fn daemon_set(set: &View) -> Vec<Value> {
    let (names, images) = set.containers(TEMPLATE_CONTAINERS);
    vec![
        set.name(),
        set.int("/status/desiredNumberScheduled").into(),
        set.int("/status/currentNumberScheduled").into(),
        set.int("/status/numberReady").into(),
        set.int("/status/updatedNumberScheduled").into(),
        set.int("/status/numberAvailable").into(),
        set.labels("/spec/template/spec/nodeSelector").into(),
        set.age(),
        names.into(),
        images.into(),
        set.selector("/spec/selector", "<none>").into(),
    ]
}

pub const CONTROLLER_REVISION: &[Spec] = &[
    NAME,
    text("Controller", Words("The controller that the revision belongs to.")),
    text("Revision", Field("apps.v1.ControllerRevision", "revision")),
    AGE,
];

pub fn controller_revision(revision: &View) -> Vec<Value> {
    let controller = revision.items("/metadata/ownerReferences").find(|owner| owner.flag("/controller"));
    let controller = controller.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let kind = owner.text("/kind").to_lowercase();
            match owner.text("/apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.text("/name")),
                None => format!("{kind}/{}", owner.text("/name")),
            }
        },
    );
    vec![revision.name(), controller.into(), revision.int("/revision").into(), revision.age()]
}

pub const JOB: &[Spec] = &[
    NAME,
    text("Status", Words("What the job is doing, or how it ended.")),
    text("Completions", Field("batch.v1.JobStatus", "succeeded")),
    text("Duration", Words("From the job's start to its end, or until now.")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("batch.v1.JobSpec", "selector")),
];

pub fn job(job: &View) -> Vec<Value> {
    let succeeded = job.int("/status/succeeded");
    let completions = match job.get("/spec/completions") {
        Some(completions) => format!("{succeeded}/{completions}"),
        None => match job.int("/spec/parallelism") {
            parallelism @ 2.. => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let lasted = job.time("/status/startTime").map(|start| {
        let end = job.time("/status/completionTime").unwrap_or(job.now);
        duration::human(end.as_second() - start.as_second())
    });
    let (names, images) = job.containers(TEMPLATE_CONTAINERS);
    vec![
        job.name(),
        job_status(job).into(),
        completions.into(),
        lasted.unwrap_or_default().into(),
        job.age(),
        names.into(),
        images.into(),
        job.selector("/spec/selector", "<none>").into(),
    ]
}

fn job_status(job: &View) -> &'static str {
    let is = |condition: &str| job.condition(condition) == "True";
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.is_terminating() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub const CRON_JOB: &[Spec] = &[
    NAME,
    text("Schedule", Field("batch.v1.CronJobSpec", "schedule")),
    text("Timezone", Field("batch.v1.CronJobSpec", "timeZone")),
    boolean("Suspend", Field("batch.v1.CronJobSpec", "suspend")),
    integer("Active", Field("batch.v1.CronJobStatus", "active")),
    text("Last Schedule", Field("batch.v1.CronJobStatus", "lastScheduleTime")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("batch.v1.JobSpec", "selector")),
];

pub fn cron_job(job: &View) -> Vec<Value> {
    let suspended = match job.get("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match job.time("/status/lastScheduleTime") {
        Some(time) => job.ago(time),
        None => "<none>".to_owned(),
    };
    let (names, images) = job.containers("/spec/jobTemplate/spec/template/spec/containers");
    vec![
        job.name(),
        job.text("/spec/schedule").into(),
        job.text_or("/spec/timeZone", "<none>").into(),
        suspended.into(),
        job.count("/status/active").into(),
        last.into(),
        job.age(),
        names.into(),
        images.into(),
        job.selector("/spec/jobTemplate/spec/selector", "<none>").into(),
    ]
}

pub const AUTOSCALER: &[Spec] = &[
    NAME,
    text("Reference", Field("autoscaling.v2.HorizontalPodAutoscalerSpec", "scaleTargetRef")),
    text("Targets", Field("autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics")),
    text("MinPods", Field("autoscaling.v2.HorizontalPodAutoscalerSpec", "minReplicas")),
    text("MaxPods", Field("autoscaling.v2.HorizontalPodAutoscalerSpec", "maxReplicas")),
    text("Replicas", Field("autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas")),
    AGE,
];

pub fn autoscaler(autoscaler: &View) -> Vec<Value> {
    let target = |field: &str| autoscaler.text(&format!("/spec/scaleTargetRef/{field}"));
    let min = autoscaler.get("/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), Value::to_string);
    vec![
        autoscaler.name(),
        format!("{}/{}", target("kind"), target("name")).into(),
        metrics(autoscaler).into(),
        min.into(),
        autoscaler.int("/spec/maxReplicas").into(),
        autoscaler.int("/status/currentReplicas").into(),
        autoscaler.age(),
    ]
}

fn metrics(autoscaler: &View) -> String {
    let current: Vec<View> = autoscaler.items("/status/currentMetrics").collect();
    let mut shown: Vec<String> =
        autoscaler.items("/spec/metrics").enumerate().map(|(i, spec)| metric(&spec, current.get(i))).collect();
    if shown.is_empty() {
        shown.extend(cpu_of_v1(autoscaler));
    }
    match shown.len() {
        0 => "<none>".to_owned(),
        total if total > METRICS_MAX => {
            format!("{} + {} more...", shown[..METRICS_MAX].join(", "), total - METRICS_MAX)
        }
        _ => shown.join(", "),
    }
}

/// autoscaling/v1 has one metric, the CPU.
fn cpu_of_v1(autoscaler: &View) -> Option<String> {
    let target = autoscaler.get("/spec/targetCPUUtilizationPercentage")?;
    let current = autoscaler.get("/status/currentCPUUtilizationPercentage");
    let current = current.map_or_else(|| "<unknown>".to_owned(), |current| format!("{current}%"));
    Some(format!("cpu: {current}/{target}%"))
}

/// The current value and the target, of one metric.
fn metric(spec: &View, status: Option<&View>) -> String {
    let (field, named) = match spec.text("/type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let current = |value: &str| status.map_or("", |status| status.text(&format!("/{field}/current/{value}")));
    let target = |value: &str| spec.text(&format!("/{field}/target/{value}"));
    let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
    let prefix = if named { format!("{}: ", spec.text(&format!("/{field}/name"))) } else { String::new() };
    let average = target("averageValue");
    if !average.is_empty() {
        let mark = if matches!(field, "external" | "object") { " (avg)" } else { "" };
        return format!("{prefix}{}/{average}{mark}", known(current("averageValue")));
    }
    if !named {
        return format!("{}/{}", known(current("value")), target("value"));
    }
    let percent =
        |value: Option<&Value>, absent: &str| value.map_or_else(|| absent.to_owned(), |value| format!("{value}%"));
    let current = status.and_then(|status| status.get(&format!("/{field}/current/averageUtilization")));
    let target = spec.get(&format!("/{field}/target/averageUtilization"));
    format!("{prefix}{}/{}", percent(current, "<unknown>"), percent(target, "<auto>"))
}

pub const DISRUPTION_BUDGET: &[Spec] = &[
    NAME,
    text("Min Available", Words("How many pods must stay available.")),
    text("Max Unavailable", Words("How many pods may be unavailable.")),
    integer("Allowed Disruptions", Words("How many pods may be disrupted now.")),
    AGE,
];

pub fn disruption_budget(budget: &View) -> Vec<Value> {
    let bound = |pointer: &str| match budget.get(pointer) {
        Some(Value::String(percent)) => json!(percent),
        Some(number) => json!(number.to_string()),
        None => json!("N/A"),
    };
    vec![
        budget.name(),
        bound("/spec/minAvailable"),
        bound("/spec/maxUnavailable"),
        budget.int("/status/disruptionsAllowed").into(),
        budget.age(),
    ]
}
